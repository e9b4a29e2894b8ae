"""Partitions of sessions: made ahead, and dropped with all sessions that expired on a day."""

import asyncio
from datetime import timedelta

import psycopg
import pytest
import structlog
from sqlalchemy.exc import DBAPIError

from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.jobs.session_days import (
    MADE_AT_ONCE,
    MARGIN,
    MAX_PARTITIONS,
    make_days,
    try_to_make_days,
)
from tamatar_auth.jobs.sweep import SweepResult, sweep
from tamatar_auth.server.app import run_service
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.engine import create_engine
from tests.server.test_app import channel_to
from tests.support.calls import ada, refusal, sign_in
from tests.support.session_days import DAY, make_past_days
from tests.support.settings import changed
from tests.support.waiting import until

PARTITIONS = """
    SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = %s::regclass ORDER BY relname
"""
SESSION = """
    INSERT INTO sessions (id, user_id, token_digest, is_valid, created_at, expires_at, revoked_at)
    SELECT gen_random_uuid(), id, sha256(gen_random_uuid()::text::bytea),
           %(revoked)s::interval IS NULL,
           now() - interval '100 days', date_trunc('day', now(), 'UTC') - %(ago)s::interval,
           now() - %(revoked)s::interval
    FROM users
"""
TOKEN = """
    INSERT INTO replaced_tokens (token_digest, session_id, expires_at)
    SELECT sha256(token_digest), id, expires_at FROM sessions
"""
TRANSACTIONS = r"""
    SELECT count(DISTINCT xmin::text) FROM pg_class WHERE relname ~ '^sessions_\d{8}$'
"""
DETACHING = "SELECT count(*) FROM pg_inherits WHERE inhdetachpending"


class Scene:
    """A database with partitions of past days."""

    def __init__(self, connection, database, settings):
        self.connection = connection
        self.database = database
        self.settings = settings

    def partitions(self, parent="sessions"):
        return [name for (name,) in self.connection.execute(PARTITIONS, [parent])]

    def add(self, ago, revoked=None):
        """Add a session that expired at noon, as many days ago, with a replaced token."""
        self.connection.execute(SESSION, {"ago": ago - DAY / 2, "revoked": revoked})
        self.connection.execute("TRUNCATE replaced_tokens")
        self.connection.execute(TOKEN)

    def count(self, table="sessions"):
        query = f"SELECT count(*) FROM {table}"  # noqa: S608 - a constant
        return self.connection.execute(query).fetchone()[0]

    async def sweep(self, **given):
        lines = []
        result = await sweep(self.database, self.settings.retention, report=lines.append, **given)
        return result, [line for line in lines if "removed" not in line and ": 0" not in line]


@pytest.fixture
async def scene(settings, migrated_database):
    settings = settings.with_database(migrated_database)
    database = Database(create_engine(settings.database))
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO users (id, email) VALUES (gen_random_uuid(), 'ada@example.com')"
        )
        yield Scene(connection, database, settings)
    await database.close()


class TestDrop:
    """Partitions whose sessions have expired."""

    async def test_sweep_drops_days_with_expired_sessions(self, scene):
        older, newer = make_past_days(scene.connection, 2)
        scene.add(2 * DAY)
        scene.add(DAY)

        result, lines = await scene.sweep()

        assert result == SweepResult(dropped_partitions=2)
        assert lines == [
            f"{parent}_{day}: dropped"
            for parent in ("sessions", "replaced_tokens")
            for day in (older, newer)
        ]
        assert scene.count() == scene.count("replaced_tokens") == 0
        assert (await scene.sweep())[0] == SweepResult()

    async def test_dry_run_counts_days_and_drops_none(self, scene):
        make_past_days(scene.connection, 2)
        before = scene.partitions()

        result, lines = await scene.sweep(dry_run=True)

        assert result == SweepResult(dropped_partitions=2)
        assert [line.partition(": ")[2] for line in lines] == ["to drop"] * 4
        assert scene.partitions() == before

    async def test_day_with_retained_session_is_kept(self, scene):
        older, newer = make_past_days(scene.connection, 2)
        scene.add(2 * DAY, revoked=29 * DAY)
        scene.add(DAY, revoked=31 * DAY)

        assert (await scene.sweep())[0] == SweepResult(dropped_partitions=1)

        for parent in ("sessions", "replaced_tokens"):
            assert f"{parent}_{older}" in scene.partitions(parent)
            assert f"{parent}_{newer}" not in scene.partitions(parent)
        assert scene.count() == scene.count("replaced_tokens") == 1

    async def test_day_that_has_not_ended_is_kept(self, scene):
        before = scene.partitions(), scene.partitions("replaced_tokens")
        scene.connection.execute(
            "INSERT INTO sessions (id, user_id, token_digest, created_at, expires_at)"
            " SELECT gen_random_uuid(), id, sha256(''), now() - interval '9 days', now() FROM users"
        )

        assert (await scene.sweep())[0] == SweepResult()

        assert (scene.partitions(), scene.partitions("replaced_tokens")) == before
        assert scene.count() == 1

    async def test_interrupted_drop_is_finished_by_next_sweep(self, scene, migrated_database):
        make_past_days(scene.connection, 2)
        hurried = changed(
            scene.settings,
            lock_timeout=timedelta(milliseconds=200),
            statement_timeout=timedelta(milliseconds=400),
        )
        database = Database(create_engine(hurried.database))
        with psycopg.connect(migrated_database) as reader:
            reader.execute("SELECT count(*) FROM sessions")
            lines = []
            result = await sweep(database, hurried.retention, report=lines.append)
            assert result == SweepResult()
            assert lines[-1].endswith("is in use: it is left to the next sweep")
            assert scene.connection.execute(DETACHING).fetchone() == (1,)
        await database.close()

        assert (await scene.sweep())[0] == SweepResult(dropped_partitions=2)
        assert scene.connection.execute(DETACHING).fetchone() == (0,)

    async def test_first_tokens_of_expired_sessions_are_removed(self, scene):
        scene.connection.execute(
            "INSERT INTO replaced_tokens (token_digest, session_id)"
            " VALUES (sha256(''), gen_random_uuid())"
        )

        await scene.sweep(dry_run=True)
        assert scene.count("replaced_tokens_first") == 1

        await scene.sweep()
        assert scene.count("replaced_tokens_first") == 0

    async def test_first_tokens_of_live_session_are_kept(self, scene):
        """The release before writes its replaced tokens there, however new the session is."""
        scene.add(-DAY)
        scene.connection.execute("UPDATE replaced_tokens SET expires_at = '-infinity'")

        await scene.sweep()

        assert scene.count("replaced_tokens_first") == 1

    async def test_copy_with_the_name_of_a_day_is_kept(self, scene):
        for copy in ("CREATE TABLE {} AS TABLE sessions", "CREATE TABLE {} (LIKE sessions)"):
            scene.connection.execute(copy.format("sessions_20250101"))

            assert (await scene.sweep())[0] == SweepResult()

            scene.connection.execute("DROP TABLE sessions_20250101")

    async def test_detached_day_is_dropped(self, scene):
        (day,) = make_past_days(scene.connection, 1)
        scene.connection.execute(f"ALTER TABLE sessions DETACH PARTITION sessions_{day}")

        await scene.sweep()

        found = scene.connection.execute("SELECT to_regclass(%s)", [f"sessions_{day}"])
        assert found.fetchone() == (None,)

    async def test_calls_do_not_wait_while_a_day_is_dropped(self, scene, migrated_database):
        make_past_days(scene.connection, 1)
        with psycopg.connect(migrated_database) as reader:
            reader.execute("SELECT count(*) FROM sessions")
            sweeping = asyncio.create_task(scene.sweep())
            waiting = (
                "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'ALTER TABLE%%DETACH%%'"
            )
            await asyncio.to_thread(
                until, lambda: scene.connection.execute(waiting).fetchone() == (1,)
            )
            scene.connection.execute("SET lock_timeout = '1ms'")
            scene.add(-DAY)
            scene.connection.execute("UPDATE sessions SET is_valid = false, revoked_at = now()")
            scene.connection.execute("UPDATE users SET last_login_at = now()")
            assert not sweeping.done()
        assert (await sweeping)[0] == SweepResult(dropped_partitions=1)


class TestMake:
    """Partitions for the sessions that are to come."""

    async def test_days_reach_beyond_longest_session(self, scene):
        month = changed(scene.settings, session_lifetime=30 * DAY)

        made = await make_days(scene.database, month)

        end = "SELECT session_days_end('sessions') - now(), session_days_end('replaced_tokens')"
        ahead, _ = scene.connection.execute(end).fetchone()
        assert 30 * DAY + MARGIN <= ahead <= 31 * DAY + MARGIN
        assert made > 0
        assert await make_days(scene.database, month) == 0
        scene.add(-30 * DAY)
        assert scene.count("replaced_tokens") == 1

    async def test_long_lifetime_makes_wider_partitions(self, scene):
        year = changed(
            scene.settings, session_lifetime=365 * DAY, ended_session_retention=365 * DAY
        )

        made = await make_days(scene.database, year)

        assert len(scene.partitions()) < MAX_PARTITIONS
        transactions = scene.connection.execute(TRANSACTIONS).fetchone()[0]
        assert transactions >= made / MADE_AT_ONCE / 2
        scene.add(-365 * DAY)

    async def test_days_made_by_several_processes_exist_once(self, scene):
        month = changed(scene.settings, session_lifetime=30 * DAY)

        made = await asyncio.gather(*(try_to_make_days(scene.database, month) for _ in range(4)))

        assert made == [True] * 4
        assert len(set(scene.partitions())) == len(scene.partitions())

    async def test_making_days_does_not_wait_for_calls(self, scene, migrated_database):
        month = changed(scene.settings, session_lifetime=30 * DAY)
        with psycopg.connect(migrated_database) as writer:
            writer.execute("UPDATE users SET last_login_at = now()")
            writer.execute(SESSION, {"ago": -DAY, "revoked": None})

            assert await make_days(scene.database, month) > 0

    async def test_days_that_cannot_be_made_are_logged(self, scene, migrated_database):
        month = changed(
            scene.settings, session_lifetime=30 * DAY, lock_timeout=timedelta(milliseconds=50)
        )
        database = Database(create_engine(month.database))
        with psycopg.connect(migrated_database) as other, structlog.testing.capture_logs() as logs:
            other.execute("LOCK TABLE sessions IN SHARE UPDATE EXCLUSIVE MODE")
            assert not await try_to_make_days(database, month)
        await database.close()

        assert [(entry["event"], entry["sqlstate"]) for entry in logs] == [
            ("partitions not made", "55P03")
        ]

    async def test_partition_of_few_rows_is_read_by_index(self, scene):
        scene.add(-DAY)
        scene.connection.execute("ANALYZE sessions")
        scene.connection.execute("SET plan_cache_mode = force_generic_plan")
        scene.connection.execute(
            "PREPARE lookup (bytea[]) AS SELECT id FROM sessions WHERE token_digest = ANY ($1)"
        )

        plan = [
            line
            for (line,) in scene.connection.execute("EXPLAIN EXECUTE lookup (ARRAY[]::bytea[])")
        ]

        assert not [line for line in plan if "Seq Scan" in line and "_first" not in line]


class TestServer:
    """The partitions that a server keeps ahead."""

    async def test_server_makes_days_before_it_answers(self, scene):
        long = changed(scene.settings, session_lifetime=60 * DAY)

        async with run_service(long) as service, channel_to(service) as channel:
            await UserServiceStub(channel).CreateUser(ada(email="eve@x.dev", email_verified=True))
            request = sign_in(email="eve@x.dev")
            started = await SessionServiceStub(channel).CreateSession(request)

        assert started.session_token

    async def test_sign_in_without_a_partition_is_unavailable(self, scene):
        async with run_service(scene.settings) as service, channel_to(service) as channel:
            await UserServiceStub(channel).CreateUser(ada(email="eve@x.dev", email_verified=True))
            for name in scene.partitions()[1:]:
                if not name.endswith("_first"):
                    scene.connection.execute(f"DROP TABLE {name}")
            call = SessionServiceStub(channel).CreateSession(sign_in(email="eve@x.dev"))
            with structlog.testing.capture_logs() as logs:
                refused = await refusal(call)

        assert refused[1] == "STORAGE_UNAVAILABLE"
        assert "sessions have no partition: run `tamatar-auth sweep`" in {
            entry["event"] for entry in logs
        }


async def test_purge_of_user_deletes_sessions_of_all_days(scene):
    make_past_days(scene.connection, 1)
    scene.add(DAY)
    scene.add(-DAY)
    scene.connection.execute("DELETE FROM users")

    assert scene.count() == 0


async def test_drop_in_a_transaction_fails(scene):
    """DETACH CONCURRENTLY refuses to run in one, and would else lock all calls out."""
    make_past_days(scene.connection, 1)
    async with scene.database.read() as db:
        day = next(day for day in await db.session_days.list() if day.is_past and not day.is_first)
    with pytest.raises(DBAPIError):
        async with scene.database.transaction() as tx:
            await tx.session_days.drop(day)
