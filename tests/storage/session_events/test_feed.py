"""The listener of session ends: a lost or late connection interrupts all watches."""

import asyncio
import contextlib
from datetime import timedelta
from urllib.parse import urlsplit
from uuid import UUID

import grpc
import psycopg
import pytest
from grpc import StatusCode
from pydantic import SecretStr
from structlog.testing import capture_logs

from tamatar.auth.v1 import session_service_pb2 as pb
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.interceptors import base
from tamatar_auth.jobs.sweep import sweep
from tamatar_auth.migrator.migrations import Migrations
from tamatar_auth.observability.telemetry import Telemetry
from tamatar_auth.server import lifecycle
from tamatar_auth.server.app import run_service
from tamatar_auth.storage.driver import limits
from tamatar_auth.storage.session_events import feed, listener
from tamatar_auth.storage.session_events.subscriber import (
    MAX_ENDS_PER_MESSAGE,
    MAX_PENDING_ENDS,
)
from tests.chaos.faulty_wire import Wire
from tests.server.test_app import channel_to, own_postgres
from tests.support.calls import ada, refusal, sign_in
from tests.support.databases import Postgres
from tests.support.session_watchers import End, watching
from tests.support.settings import changed
from tests.support.telemetry_capture import Recording
from tests.support.waiting import PATIENCE, eventually

__all__ = ["own_postgres"]

INTERRUPTED = (StatusCode.UNAVAILABLE, "STREAM_INTERRUPTED")
UNAVAILABLE = (StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")

LISTENERS = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND application_name LIKE '% listener'
"""

ADD_END = "INSERT INTO session_ends (user_id, session_id) VALUES (%s, %s)"
ADD_ENDS = """
    INSERT INTO session_ends (user_id, session_id)
    SELECT gen_random_uuid(), gen_random_uuid() FROM generate_series(1, %s)
"""

LOCKS_OF_OLDER_RELEASE = """
    SELECT pg_advisory_lock_shared(1953330277, number) FROM generate_series(0, 63) AS number
"""

MARK = "UPDATE session_end_log SET marked_at = now() - interval '1 min'"
REMOVE = "SELECT remove_session_ends(1000)"
INDEX_READS = """
    SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'idx_session_end_xid'
"""

END = End("01890a5d-ac96-774b-bcce-b302099a8057", "01890a5d-ac96-774b-bcce-b302099a8058")


@pytest.fixture(autouse=True)
def often(monkeypatch):
    """Read more often, and allow late answers."""
    monkeypatch.setattr(feed, "READ_INTERVAL", 0.05)


@pytest.fixture
def rarely(monkeypatch):
    """Read only when a watch begins."""
    monkeypatch.setattr(feed, "READ_INTERVAL", 10 * PATIENCE)
    monkeypatch.setattr(feed, "STALENESS_LIMIT", 20 * PATIENCE)


@pytest.fixture
def hasty(monkeypatch):
    """Return a function that shortens the limits of reads to half a second."""

    def shorten():
        monkeypatch.setattr(listener, "CHECK_TIMEOUT", 0.5)
        monkeypatch.setattr(feed, "STALENESS_LIMIT", 0.5)

    return shorten


@pytest.fixture
def sql(database_url):
    """Run a statement beside the service, and return the first column of its rows."""

    async def sql(statement, *values, url=database_url):
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            cursor = await connection.execute(statement, values or None)
            return [row[0] for row in await cursor.fetchall()] if cursor.description else []

    return sql


@pytest.fixture
async def wire(database, database_url):
    async with Wire.to(database_url) as wire:
        yield wire


@pytest.fixture
async def over_wire(settings, wire, monkeypatch):
    """Sessions of a server whose listener connects through a faulty wire."""
    monkeypatch.setattr(limits, "CONNECT_TIMEOUT", 4)  # a test waits for it
    mine = changed(settings, listener_database_url=SecretStr(wire.url))
    async with run_service(mine) as service, channel_to(service) as channel:
        yield SessionServiceStub(channel)


async def said(watch):
    """Return code and reason of a stream's end, which must carry a retry delay."""
    refused = await watch.refusal()
    assert refused.retry_seconds is not None
    return refused.code, refused.reason


async def hears_again(sessions, sql):
    """Watch again as soon as possible, and receive an end."""

    async def can():
        with contextlib.suppress(grpc.aio.AioRpcError):
            async with watching(sessions) as watch:
                await sql(ADD_END, *END)
                await watch.wait_for(END)
                return True
        return False

    await eventually(can)


@pytest.fixture
async def user(users, database):
    """Ada, who can sign in."""
    return (await users.CreateUser(ada(email_verified=True))).user


async def is_empty(sql):
    return await sql(LISTENERS) == []


async def is_removed(sql):
    """Remove read ends; transactions of other databases keep them while they run."""
    await sql(MARK)
    await sql(REMOVE)
    return await sql("SELECT count(*) FROM session_ends") == [0]


async def begin(sessions):
    return await sessions.WatchSessions(pb.WatchSessionsRequest()).read()


class TestListener:
    """The connection that listens."""

    @pytest.mark.parametrize("is_older_release_listening", [False, True])
    async def test_session_end_notifies_listeners_of_older_release_only(
        self, sessions, user, sql, database_url, is_older_release_listening
    ):
        started = await sessions.CreateSession(sign_in())
        end = End(user.user_id, started.session.session_id)
        async with (
            watching(sessions) as watch,
            await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection,
        ):
            await connection.execute("LISTEN tamatar_session_ends")
            if is_older_release_listening:
                await connection.execute(LOCKS_OF_OLDER_RELEASE)
            await sessions.RevokeSession(pb.RevokeSessionRequest(session_id=end.session_id))
            await watch.wait_for(end)
            heard = [each.payload async for each in connection.notifies(timeout=0.3)]
        assert heard == ([" ".join(end)] if is_older_release_listening else [])

    async def test_listener_connection_that_ends_interrupts_watches(self, sessions, sql):
        async with watching(sessions) as one, watching(sessions) as other:
            (pid,) = await sql(LISTENERS)
            await sql("SELECT pg_terminate_backend(%s)", pid)

            assert [await said(one), await said(other)] == [INTERRUPTED] * 2
        await hears_again(sessions, sql)
        assert await sql(LISTENERS) != [pid]

    async def test_listener_is_shared_and_closed_when_idle(self, sessions, sql, monkeypatch):
        await eventually(lambda: is_empty(sql))
        async with watching(sessions) as one, watching(sessions) as other:
            (pid,) = await sql(LISTENERS)
        async with watching(sessions):
            assert await sql(LISTENERS) == [pid]
            monkeypatch.setattr(feed, "IDLE_TIMEOUT", 0.1)
            await asyncio.sleep(0.5)
            assert await sql(LISTENERS) == [pid]

        await eventually(lambda: is_empty(sql))
        assert one.ends == other.ends == []
        monkeypatch.undo()
        await hears_again(sessions, sql)

    @pytest.mark.parametrize("harm", ["cut", "freeze", "take_down"])
    async def test_listener_connection_cut_off_silently_interrupts(
        self, over_wire, wire, sql, harm, hasty
    ):
        async with watching(over_wire) as watch:
            assert wire.connections == 1
            hasty()
            getattr(wire, harm)()

            assert await said(watch) == INTERRUPTED
            if harm != "cut":
                assert await refusal(begin(over_wire)) == UNAVAILABLE
        wire.heal()
        await hears_again(over_wire, sql)

    @pytest.mark.parametrize("other", ["the database", "the server"])
    async def test_listener_at_another_database_is_refused(
        self, settings, migrated_database, own_postgres, database_url, other
    ):
        url = migrated_database
        if other == "the server":
            url = Postgres(own_postgres.url()).create(urlsplit(database_url).path[1:])
        mine = changed(settings, listener_database_url=SecretStr(url))
        with capture_logs() as logs:
            async with run_service(mine) as service, channel_to(service) as channel:
                assert await refusal(begin(SessionServiceStub(channel))) == UNAVAILABLE
        (why,) = [line["why"] for line in logs if line["event"] == "session ends are not heard"]
        assert why == "TAMATAR_LISTENER_DATABASE_URL leads to another database"

    @pytest.mark.parametrize("found_by", ["the listener", "a call"])
    async def test_listener_on_read_only_server_interrupts(
        self, settings, own_postgres, sql, monkeypatch, found_by
    ):
        if found_by == "a call":
            monkeypatch.setattr(feed, "READ_INTERVAL", 60)
        url = own_postgres.url()
        async with (
            run_service(settings.with_database(url)) as service,
            channel_to(service) as channel,
        ):
            sessions = SessionServiceStub(channel)
            async with watching(sessions) as watch:
                await sql("ALTER SYSTEM SET default_transaction_read_only = on", url=url)
                await sql("SELECT pg_reload_conf()", url=url)
                if found_by == "a call":
                    creating = until_it_is_refused(UserServiceStub(channel))
                    assert await refusal(creating) == UNAVAILABLE

                assert await said(watch) == INTERRUPTED
                assert await refusal(begin(sessions)) == UNAVAILABLE


async def until_it_is_refused(users):
    """Create users until the server has read its settings again."""
    for number in range(1000):
        await users.CreateUser(ada(email=f"before{number}@example.com", password=""))


class TestEnds:
    """Ends that reach watches, or interrupt them."""

    async def test_watch_receives_ends_from_first_message_on(self, over_wire, wire, sql):
        wire.delay = 0.15
        async with watching(over_wire) as watch:
            await sql(ADD_END, *END)
            await watch.wait_for(END)

    @pytest.mark.parametrize("is_watched_before", [False, True])
    async def test_end_that_commits_late_reaches_watch(
        self, sessions, user, sql, database_url, is_watched_before
    ):
        """Later transactions have committed, and were read, before it."""
        started = await sessions.CreateSession(sign_in())
        late = End(user.user_id, started.session.session_id)
        async with (
            await psycopg.AsyncConnection.connect(database_url) as connection,
            contextlib.AsyncExitStack() as stack,
        ):
            if is_watched_before:
                watch = await stack.enter_async_context(watching(sessions))
            await connection.execute("UPDATE sessions SET is_valid = false, revoked_at = now()")
            if not is_watched_before:
                watch = await stack.enter_async_context(watching(sessions))
            for _ in range(3):
                await sql(ADD_END, *END)
                await watch.wait_for(END)
                watch.ends.clear()
            await connection.commit()

            await watch.wait_for(late)

    async def test_end_during_other_long_transaction_is_reported_once(
        self, sessions, sql, database_url
    ):
        async with (
            await psycopg.AsyncConnection.connect(database_url) as connection,
            watching(sessions) as watch,
        ):
            await connection.execute("SELECT pg_current_xact_id()")
            await sql(ADD_END, *END)
            await watch.wait_for(END)
            await sql(ADD_END, END.session_id, END.user_id)
            await watch.wait_for(End(END.session_id, END.user_id))
            assert len(watch.ends) == 2

    async def test_ends_of_one_read_keep_order_of_transactions(self, sessions, sql, rarely):
        ends = [End(END.user_id, str(UUID(int=number))) for number in range(9, 0, -1)]
        async with watching(sessions) as watch:
            for end in ends:
                await sql(ADD_END, *end)
            async with watching(sessions):  # reads at once
                await watch.wait_for(*ends)
        assert watch.ends == ends

    async def test_end_before_watch_is_not_reported(self, sessions, sql, rarely):
        async with watching(sessions) as first:
            await sql(ADD_END, *END)
            async with watching(sessions) as second:
                await first.wait_for(END)
                await sql(ADD_END, END.session_id, END.user_id)
                async with watching(sessions):
                    await second.wait_for(End(END.session_id, END.user_id))
        assert END not in second.ends

    @pytest.mark.parametrize(
        ("off", "on"),
        [
            (
                f"ALTER TABLE {table} DISABLE TRIGGER {name}",
                f"ALTER TABLE {table} ENABLE TRIGGER {name}",
            )
            for table, name in [
                ("sessions", "sessions_tell_end"),
                ("sessions", "sessions_tell_deletion"),
                ("sessions", "sessions_tell_truncation"),
                ("users", "users_tell_end"),
            ]
        ],
    )
    async def test_disabled_trigger_interrupts_watches(self, sessions, sql, off, on):
        async with watching(sessions) as watch:
            await sql(off)
            assert await said(watch) == INTERRUPTED
            assert await refusal(begin(sessions)) == UNAVAILABLE
            await sql(on)
        await hears_again(sessions, sql)

    async def test_database_without_triggers_cannot_be_watched(self, settings, migrated_database):
        Migrations(migrated_database).downgrade("0004")
        async with (
            run_service(settings.with_database(migrated_database)) as service,
            channel_to(service) as channel,
        ):
            assert await refusal(begin(SessionServiceStub(channel))) == UNAVAILABLE
            Migrations(migrated_database).upgrade()
            async with watching(SessionServiceStub(channel)):
                pass

    @pytest.mark.parametrize(
        "what", ["TRUNCATE sessions CASCADE", "INSERT INTO session_ends DEFAULT VALUES"]
    )
    async def test_end_of_unknown_sessions_interrupts(self, sessions, sql, what):
        async with watching(sessions) as watch:
            await sql(what)

            assert await said(watch) == INTERRUPTED


class TestRemoval:
    """Old rows are removed, and readers that may have missed one notice."""

    async def test_read_ends_are_removed_while_watched(self, sessions, sql):
        async with watching(sessions) as watch:
            await sql(ADD_END, *END)
            await watch.wait_for(END)

            async def is_removed():
                await sql(MARK)
                return await sql("SELECT count(*) FROM session_ends") == [0]

            await eventually(is_removed)
            await sql(ADD_END, END.session_id, END.user_id)
            await watch.wait_for(End(END.session_id, END.user_id))

    async def test_sweep_removes_ends_that_nobody_reads(self, database, settings, sql):
        await sql(ADD_ENDS, 3000)

        async def is_swept():
            await sweep(database, settings.retention)
            await sql(MARK)
            return await sql("SELECT count(*) FROM session_ends") == [0]

        await eventually(is_swept)

    async def test_removal_keeps_ends_of_running_transactions(self, sql, database, database_url):
        async with await psycopg.AsyncConnection.connect(database_url) as connection:
            await connection.execute(ADD_END, END)
            for _ in range(3):
                await sql(REMOVE)
                await sql(MARK)
            await connection.commit()
            assert await sql("SELECT count(*) FROM session_ends") == [1]

    async def test_removal_reads_no_removed_row_again(self, sql, database, database_url):
        """Removed rows stay in the index while another transaction may see them."""
        async with await psycopg.AsyncConnection.connect(database_url) as connection:
            await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
            await connection.execute("SELECT FROM users")
            for _ in range(4):
                await sql(ADD_ENDS, 600)
                await eventually(lambda: is_removed(sql))

            before = await sql(INDEX_READS)
            for _ in range(10):
                await sql(REMOVE)
            assert (await sql(INDEX_READS))[0] - before[0] < 1000

    async def test_late_reader_whose_rows_were_removed_interrupts(
        self, sessions, sql, rarely, monkeypatch
    ):
        async with watching(sessions) as watch:
            await sql(ADD_END, *END)
            await eventually(lambda: is_removed(sql))
            reading = asyncio.ensure_future(refusal(begin(sessions)))
            assert await said(watch) == INTERRUPTED
            await reading
        assert watch.ends == []
        monkeypatch.undo()
        await hears_again(sessions, sql)

    @pytest.mark.parametrize(
        "harm", ["DELETE FROM session_end_log", "UPDATE session_end_log SET epoch = DEFAULT"]
    )
    async def test_table_emptied_by_crash_or_failover_interrupts(self, sessions, sql, harm):
        """A pooler may hide that another server, or a restarted one, answers."""
        async with watching(sessions) as watch:
            await sql(harm)
            assert await said(watch) == INTERRUPTED
        await hears_again(sessions, sql)

    async def test_rows_of_restored_dump_are_ignored(self, sessions, sql):
        """They have numbers that the transactions of this server have not reached."""
        await sql("INSERT INTO session_ends (xid, user_id) VALUES ('9000000000', %s)", END.user_id)
        await sql("INSERT INTO session_end_log (removed_before, marked) VALUES ('9', '9000000000')")
        await sql("UPDATE session_end_log SET removed_before = marked")
        async with watching(sessions) as watch:
            await sql(ADD_END, *END)
            await watch.wait_for(END)
        assert watch.ends == [END]

    async def test_more_ends_than_a_read_returns_interrupt(self, sessions, sql):
        async with watching(sessions) as watch:
            await sql(ADD_ENDS, listener.MAX_NEW_ENDS + 1)
            assert await said(watch) == INTERRUPTED


def narrow(service):
    """Connect so that a server can send at most 64 KiB that are not read."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]
    return grpc.aio.insecure_channel(str(service.addresses[0]), options=options)


async def heard_of(watch, ends):
    """Read until that many more ends came, in messages of bounded size."""
    before = len(watch.ends)
    while len(watch.ends) < before + ends:
        assert len(await watch.read()) <= MAX_ENDS_PER_MESSAGE


@pytest.fixture
def slow_steps(monkeypatch):
    """Allow each step of the shutdown more time than it needs."""
    monkeypatch.setattr(lifecycle, "SHUTDOWN_STEP_SECONDS", 5.0)


class TestStreams:
    """Streams that are slow, or end with the server."""

    async def test_statements_of_listener_are_observed(self, settings, database):
        recording = Recording()
        loud = changed(settings, slow_query=timedelta(0))
        with capture_logs() as logs:
            async with (
                run_service(loud, Telemetry(meter=recording.meter)) as service,
                channel_to(service) as channel,
                watching(SessionServiceStub(channel)),
            ):
                pass

        summaries = {line["summary"] for line in logs if line["event"] == "slow statement"}
        assert {"INSERT", "SELECT"} <= summaries
        durations = recording.points("db.client.operation.duration")
        assert "INSERT" in {point.attributes["db.operation.name"] for point in durations}

    async def test_slow_watcher_alone_is_interrupted(self, settings, database, sql):
        recording = Recording()
        telemetry = Telemetry(meter=recording.meter)
        async with (
            run_service(settings, telemetry) as service,
            channel_to(service) as channel,
            narrow(service) as narrow_channel,
        ):
            sessions = SessionServiceStub(channel)
            async with (
                watching(SessionServiceStub(narrow_channel)) as slow,
                watching(sessions) as quick,
            ):
                for _ in range(10):
                    await sql(ADD_ENDS, MAX_PENDING_ENDS // 2)
                    await heard_of(quick, MAX_PENDING_ENDS // 2)

                assert await said(slow) == INTERRUPTED
                assert 0 < len(slow.ends) < MAX_PENDING_ENDS * 5
                await sql(ADD_END, *END)
                await quick.wait_for(END)
            ended = {
                point.attributes["tamatar.watch.cause"]: point.value
                for point in recording.points("tamatar.watch.ended")
            }
            assert (ended["slow"], ended["lost"]) == (1, 0)
            (heard,) = recording.points("tamatar.session_end.heard")
            assert heard.value == MAX_PENDING_ENDS * 5 + 1

    @pytest.mark.usefixtures("slow_steps")
    async def test_server_stop_ends_streams_at_once(self, settings, database, sql):
        async with run_service(settings) as service, channel_to(service) as channel:
            sessions = SessionServiceStub(channel)
            async with watching(sessions) as watch:
                stopping = asyncio.create_task(service.stop())
                assert await said(watch) == (StatusCode.UNAVAILABLE, "SERVICE_STOPPING")
                await stopping
        assert service.unfinished == []
        await eventually(lambda: is_empty(sql))

    @pytest.mark.usefixtures("slow_steps")
    async def test_server_stop_is_not_held_by_stuck_reader(self, settings, database, sql):
        async with (
            run_service(settings) as service,
            narrow(service) as channel,
            watching(SessionServiceStub(channel)) as watch,
        ):
            await sql(ADD_ENDS, MAX_PENDING_ENDS)
            await watch.read()
            await service.stop()

            assert service.unfinished == []

    async def test_stuck_reader_frees_its_stream(self, settings, database, sql, monkeypatch):
        mine = changed(settings, streams=1)
        async with (
            run_service(mine) as service,
            narrow(service) as channel,
            channel_to(service) as another,
            watching(SessionServiceStub(channel)) as stuck,
        ):
            assert await refusal(begin(SessionServiceStub(another))) == (
                StatusCode.RESOURCE_EXHAUSTED,
                "SERVER_BUSY",
            )
            monkeypatch.setattr(base, "WRITE_TIMEOUT", 0.3)
            await sql(ADD_ENDS, MAX_PENDING_ENDS)
            await hears_again(SessionServiceStub(another), sql)

            assert await said(stuck) == INTERRUPTED
