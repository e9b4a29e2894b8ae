"""Cancelled calls: they return at once, PostgreSQL ends their statement, a commit goes on."""

import asyncio

import psycopg
import pytest
from sqlalchemy import text

from tamatar_auth.embedded.postgres import EmbeddedPostgres
from tamatar_auth.errors.storage import StorageUnavailable
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.driver import orphaned_statements as module
from tamatar_auth.storage.driver.connect import connector
from tamatar_auth.storage.driver.orphaned_statements import OrphanedStatements
from tamatar_auth.storage.engine import create_engine
from tests.support.frozen_postgres import frozen, make_psycopg_hold_cancelled_calls
from tests.support.telemetry_capture import Recording
from tests.support.waiting import PATIENCE, eventually

PID = text("SELECT pg_backend_pid()")


@pytest.fixture
async def orphaned():
    orphaned = OrphanedStatements()
    yield orphaned
    await orphaned.close()


@pytest.fixture
def slow_to_cancel(monkeypatch):
    """Allow the server ample time to accept a cancel request."""
    monkeypatch.setattr(module, "CANCEL_TIMEOUT", PATIENCE)


@pytest.fixture
async def left(settings, orphaned, database):
    """The database, with cancelled statements handed to `orphaned`."""
    left = Database(create_engine(settings.database, orphaned, pool_size=2), orphaned)
    yield left
    await left.close()


@pytest.fixture
def own_postgres(tmp_path):
    """A server that a test may freeze."""
    with EmbeddedPostgres(tmp_path, settings={"fsync": "off"}) as postgres:
        yield postgres


async def begun(database, *statements):
    """Start a transaction in a task; return the task and the PID of its connection."""
    pids = asyncio.get_running_loop().create_future()

    async def run():
        async with database.transaction() as tx:
            pids.set_result((await tx.connection.execute(PID)).scalar_one())
            for statement in statements:
                await tx.connection.execute(text(statement))

    return asyncio.create_task(run()), await pids


async def gone(database, pid):
    return await one(database, "SELECT count(*) FROM pg_stat_activity WHERE pid = :pid", pid) == 0


async def sleeps(database, pid):
    return await event_of(database, pid) == "PgSleep"


async def waits(database, pid):
    return await event_of(database, pid) == "advisory"


async def event_of(database, pid):
    return await one(database, "SELECT wait_event FROM pg_stat_activity WHERE pid = :pid", pid)


async def one(database, query, pid=None):
    async with database.read() as db:
        values = {} if pid is None else {"pid": pid}
        return (await db.connection.execute(text(query), values)).scalar_one_or_none()


@pytest.mark.usefixtures("slow_to_cancel")
async def test_cancelled_statement_is_ended_in_postgresql(left, orphaned, database):
    task, pid = await begun(left, "SET LOCAL statement_timeout = 0", "SELECT pg_sleep(60)")
    await eventually(lambda: sleeps(database, pid))

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert left.pool.in_use == 0
    await eventually(lambda: gone(database, pid))
    assert (orphaned.cancelled, orphaned.cancel_failures, orphaned.commits) == (1, 0, 0)


async def test_cancelled_call_on_frozen_server_returns_at_once(
    settings, own_postgres, tmp_path, orphaned, monkeypatch
):
    make_psycopg_hold_cancelled_calls(monkeypatch)
    mine = settings.with_database(own_postgres.url())
    database = Database(create_engine(mine.database, orphaned, pool_size=1), orphaned)
    task, _ = await begun(database, "SELECT pg_sleep(60)")
    with frozen(tmp_path):
        task.cancel()
        _, pending = await asyncio.wait({task}, timeout=PATIENCE)

        assert not pending
        assert database.pool.in_use == 0
        await eventually(lambda: orphaned.cancel_failures == 1)

    assert orphaned.cancelled == 0
    await eventually(lambda: answers(database))
    await database.close()


async def answers(database):
    try:
        async with database.read() as db:
            await db.connection.execute(PID)
    except (StorageUnavailable, psycopg.Error):
        return False
    return True


SLOW_COMMIT = (
    "CREATE TABLE slow (id int)",
    """CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END'""",
    """CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON slow
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait()""",
)


@pytest.fixture
async def committing(settings, orphaned, empty_database):
    """A database in which a row of the table `slow` is committed once a lock is free."""
    mine = settings.with_database(empty_database)
    database = Database(create_engine(mine.database, orphaned, pool_size=3), orphaned)
    async with database.transaction() as tx:
        for statement in SLOW_COMMIT:
            await tx.connection.execute(text(statement))
    yield database
    await database.close()


async def rows(database):
    return await one(database, "SELECT count(*) FROM slow")


async def test_cancelled_commit_is_not_ended(committing, orphaned):
    async with committing.read() as holder:
        await holder.connection.execute(text("SELECT pg_advisory_lock(1)"))
        task, pid = await begun(committing, "INSERT INTO slow VALUES (1)")
        await eventually(lambda: waits(committing, pid))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert orphaned.in_doubt == 1
        assert await rows(committing) == 0
        await holder.connection.execute(text("SELECT pg_advisory_unlock(1)"))

    await eventually(lambda: orphaned.in_doubt == 0)
    assert await rows(committing) == 1
    assert (orphaned.cancelled, orphaned.cancel_failures, orphaned.commits) == (0, 0, 1)


async def test_cancelled_commit_is_waited_for_up_to_a_limit(committing, orphaned, monkeypatch):
    monkeypatch.setattr(module, "IN_DOUBT_TIMEOUT", 0.1)
    async with committing.read() as holder:
        await holder.connection.execute(text("SELECT pg_advisory_lock(1)"))
        task, pid = await begun(committing, "INSERT INTO slow VALUES (1)")
        await eventually(lambda: waits(committing, pid))
        task.cancel()
        await asyncio.wait({task})

        await eventually(lambda: orphaned.in_doubt == 0)
        assert await waits(committing, pid)
        await holder.connection.execute(text("SELECT pg_advisory_unlock(1)"))

    await eventually(lambda: rows(committing))


async def test_cancelled_autocommit_statement_is_not_ended(committing, orphaned):
    pids = asyncio.get_running_loop().create_future()

    async def insert():
        async with committing.statements() as db:
            pids.set_result((await db.connection.execute(PID)).scalar_one())
            await db.connection.execute(text("INSERT INTO slow VALUES (1)"))

    async with committing.read() as holder:
        await holder.connection.execute(text("SELECT pg_advisory_lock(1)"))
        task = asyncio.create_task(insert())
        pid = await pids
        await eventually(lambda: waits(committing, pid))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert orphaned.in_doubt == 1
        await holder.connection.execute(text("SELECT pg_advisory_unlock(1)"))

    await eventually(lambda: orphaned.in_doubt == 0)
    assert await rows(committing) == 1


@pytest.mark.usefixtures("slow_to_cancel")
async def test_reused_connection_when_cancelled_ends_its_statement(settings, orphaned, database):
    single = Database(create_engine(settings.database, orphaned, pool_size=1), orphaned)
    async with single.statements() as db:
        first = (await db.connection.execute(PID)).scalar_one()
    task, pid = await begun(single, "SET LOCAL statement_timeout = 0", "SELECT pg_sleep(60)")
    await eventually(lambda: sleeps(database, pid))
    task.cancel()
    await asyncio.wait({task})

    assert pid == first
    await eventually(lambda: gone(database, pid))
    await single.close()


async def test_commits_in_doubt_at_pool_size_block_transactions(committing, orphaned):
    async with committing.read() as holder:
        await holder.connection.execute(text("SELECT pg_advisory_lock(1)"))
        for _ in range(committing.pool.size):
            task, pid = await begun(committing, "INSERT INTO slow VALUES (1)")
            await eventually(lambda pid=pid: waits(committing, pid))
            task.cancel()
            await asyncio.wait({task})
        with pytest.raises(StorageUnavailable):
            async with committing.transaction():
                pass
        assert await rows(committing) == 0  # reads still work
        await holder.connection.execute(text("SELECT pg_advisory_unlock(1)"))

    await eventually(lambda: orphaned.in_doubt == 0)
    async with committing.transaction():
        pass
    assert await rows(committing) == committing.pool.size


@pytest.mark.usefixtures("slow_to_cancel")
async def test_orphaned_statements_are_counted_by_outcome(settings, database):
    recording = Recording()
    orphaned = OrphanedStatements(recording.meter)
    connection = await connector(settings.database, orphaned)()
    task = asyncio.create_task(connection.execute("SELECT pg_sleep(60)"))
    await eventually(lambda: sleeps(database, connection.info.backend_pid))
    task.cancel()
    await asyncio.wait({task})
    await eventually(lambda: connection.closed)

    points = recording.points("tamatar.db.abandoned")
    assert {point.attributes["tamatar.db.abandoned.outcome"]: point.value for point in points} == {
        "ended": 1,
        "left": 0,
        "commit": 0,
    }
    (doubt,) = recording.points("tamatar.db.in_doubt")
    assert doubt.value == 0
