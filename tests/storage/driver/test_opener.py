"""Connections that open slowly: no call waits for them, and a later call uses them."""

import asyncio
import contextlib

import psycopg
import pytest
from sqlalchemy import text

from tamatar_auth.errors import ServiceStopping
from tamatar_auth.errors.storage import StorageUnavailable
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.driver import limits
from tamatar_auth.storage.driver import opener as module
from tamatar_auth.storage.driver.connect import connector
from tamatar_auth.storage.driver.opener import ConnectionOpener
from tamatar_auth.storage.driver.orphaned_statements import OrphanedStatements
from tamatar_auth.storage.engine import create_engine
from tamatar_auth.storage.instrumentation.queries import StatementObserver
from tamatar_auth.storage.session_validation.connections import DedicatedPool
from tests.support.waiting import PATIENCE, eventually


@pytest.fixture
async def silent():
    """A port that accepts connections and never answers."""
    taken = []

    async def take(_reader, writer):
        taken.append(writer)

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1], taken
    for writer in taken:
        writer.close()
    server.close()


@pytest.fixture
def hasty(settings, monkeypatch):
    monkeypatch.setattr(limits, "POOL_WAIT", 0.5)
    monkeypatch.setattr(limits, "CONNECT_TIMEOUT", 2)
    return settings


async def test_silent_server_fails_calls_and_shares_connect(hasty, silent):
    port, taken = silent
    mine = hasty.with_database(f"postgresql://127.0.0.1:{port}/x?connect_timeout=60")
    orphaned = OrphanedStatements()
    database = Database(create_engine(mine.database, orphaned), orphaned)
    dedicated_pool = DedicatedPool(mine.database, StatementObserver(60, None, None), 8, orphaned)
    for acquire in (database.read, database.transaction, dedicated_pool.acquire):
        with pytest.raises(StorageUnavailable):
            async with acquire():
                pass

    # The second call waited for the attempt that the first one began.
    await eventually(lambda: len(taken) > 1)
    assert len(taken) == 2
    assert database.pool.in_use == 0
    await database.close()
    await orphaned.close()


async def test_second_host_is_reached_past_a_silent_one(hasty, silent, database_url):
    port, _ = silent
    several = database_url.replace("@127.0.0.1:", f"@127.0.0.1:{port},127.0.0.1:")
    orphaned = OrphanedStatements()
    database = Database(create_engine(hasty.with_database(several).database, orphaned), orphaned)

    async def answers():
        try:
            async with database.read() as db:
                return (await db.connection.execute(text("SELECT 1"))).scalar_one() == 1
        except StorageUnavailable:
            return False

    await eventually(answers)
    await database.close()
    await orphaned.close()


async def test_silent_server_does_not_delay_start(hasty, silent, monkeypatch):
    monkeypatch.setattr("tamatar_auth.storage.database.FILL_TIMEOUT", 0.1)
    port, taken = silent
    mine = hasty.with_database(f"postgresql://127.0.0.1:{port}/x?connect_timeout=60")
    orphaned = OrphanedStatements()
    database = Database(create_engine(mine.database, orphaned), orphaned)
    async with asyncio.timeout(PATIENCE):
        await database.fill_pool()

    await eventually(lambda: taken)
    assert len(taken) == 1
    assert database.pool.in_use == 0
    await database.close()
    await orphaned.close()


async def test_fourth_host_is_reached_past_three_silent_ones(hasty, silent, database_url):
    port, _ = silent
    hosts = "".join(f"127.0.0.1:{port}," for _ in range(3))
    several = database_url.replace("@127.0.0.1:", f"@{hosts}127.0.0.1:")
    orphaned = OrphanedStatements()
    dedicated_pool = DedicatedPool(
        hasty.with_database(several).database,
        StatementObserver(60, None, None),
        8,
        orphaned,
    )

    async def lends():
        with contextlib.suppress(StorageUnavailable):
            async with dedicated_pool.acquire() as connection:
                return not connection.closed
        return False

    await eventually(lends)
    await dedicated_pool.close()
    await orphaned.close()


@pytest.fixture
async def slow(settings):
    """An opener whose one connection opens on a signal, the signal, and that connection."""
    connect = connector(settings.database, OrphanedStatements())
    go_on, opened = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def open_slowly():
        # As with psycopg, the cancellation may come too late.
        with contextlib.suppress(asyncio.CancelledError):
            await go_on.wait()
        opened.set_result(await connect())
        return opened.result()

    return ConnectionOpener(open_slowly), go_on, opened


async def left(opener):
    """Have a task wait for a connection, and cancel the task."""
    task = asyncio.create_task(opener.open())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})


async def is_closed(opened):
    connection = await opened
    return await eventually(lambda: connection.closed)


async def test_unclaimed_connection_is_closed_at_close(slow):
    opener, go_on, opened = slow
    await left(opener)
    go_on.set()
    await opened
    await asyncio.sleep(0)
    opener.close()

    assert await is_closed(opened)


async def test_connection_opened_after_close_is_closed(slow):
    opener, _, opened = slow
    await left(opener)
    opener.close()

    assert await is_closed(opened)


async def test_connection_left_after_close_is_closed(slow):
    opener, _, opened = slow
    task = asyncio.create_task(opener.open())
    await asyncio.sleep(0)
    opener.close()
    task.cancel()

    assert await is_closed(opened)


async def test_unclaimed_connection_is_closed_after_its_lifetime(slow, monkeypatch):
    monkeypatch.setattr(module, "UNCLAIMED_LIFETIME", 0.05)
    opener, go_on, opened = slow
    await left(opener)
    go_on.set()

    assert await is_closed(opened)


async def test_open_after_close_raises(slow):
    opener, _, _ = slow
    opener.close()

    with pytest.raises(ServiceStopping):
        await opener.open()


async def test_unclaimed_failure_is_not_raised_to_next_caller():
    failing = [True, False]

    async def connect():
        await asyncio.sleep(0.05)
        if failing.pop(0):
            raise psycopg.OperationalError
        return "a connection"

    opener = ConnectionOpener(connect)
    task = asyncio.create_task(opener.open())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    await asyncio.sleep(0.1)

    assert await opener.open() == "a connection"
