"""Connections that take long to open: no call waits for them, and the next one goes on."""

import asyncio
from datetime import timedelta

import psycopg
import pytest
from sqlalchemy import text

from tamatar_auth.errors.storage import StorageUnavailable
from tamatar_auth.storage.abandoned import Abandoned
from tamatar_auth.storage.connecting import connecting
from tamatar_auth.storage.database import Database, create_engine
from tamatar_auth.storage.openings import Openings
from tamatar_auth.storage.queries import QueryWatch
from tamatar_auth.storage.reserved import ReservedConnections


@pytest.fixture
async def silent():
    """A port where connections are taken and nothing is answered."""
    taken = []

    async def take(_reader, writer):
        taken.append(writer)

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1], taken
    for writer in taken:
        writer.close()
    server.close()


@pytest.fixture
def hasty(settings):
    return settings.model_copy(update={"pool_wait": timedelta(milliseconds=100)})


async def test_a_silent_server_keeps_no_call_waiting(hasty, silent):
    port, taken = silent
    mine = hasty.with_database(f"postgresql://127.0.0.1:{port}/x")
    abandoned = Abandoned()
    database = Database(create_engine(mine, abandoned), abandoned)
    reserved = ReservedConnections(mine, QueryWatch(60, None, None), abandoned)
    for lend in (database.read, database.transaction, reserved.lend):
        with pytest.raises(StorageUnavailable):
            async with lend():
                pass

    # The second call waited for what the first had begun.
    assert len(taken) == 2
    assert database.pool.in_use == 0
    await database.close()
    await abandoned.close()


async def test_a_second_host_is_reached_though_no_call_waits_for_the_first(
    hasty, silent, database_url
):
    port, _ = silent
    several = database_url.replace("@127.0.0.1:", f"@127.0.0.1:{port},127.0.0.1:")
    abandoned = Abandoned()
    database = Database(create_engine(hasty.with_database(several), abandoned), abandoned)

    async def answers():
        try:
            async with database.read() as db:
                return (await db.connection.execute(text("SELECT 1"))).scalar_one() == 1
        except StorageUnavailable:
            return False

    for _ in range(200):
        if await answers():
            break
    else:
        raise AssertionError("it was never reached")
    await database.close()
    await abandoned.close()


async def test_what_nobody_came_for_is_closed(settings):
    opened = asyncio.get_running_loop().create_future()
    connect = connecting(settings, Abandoned())

    async def slow():
        opened.set_result(await connect())
        return opened.result()

    openings = Openings(slow)
    task = asyncio.create_task(openings.one())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    connection = await opened
    await asyncio.sleep(0)
    openings.close()

    assert connection.closed


async def test_what_failed_unnoticed_is_told_to_nobody():
    failing = [True, False]

    async def connect():
        await asyncio.sleep(0.05)
        if failing.pop(0):
            raise psycopg.OperationalError
        return "a connection"

    openings = Openings(connect)
    task = asyncio.create_task(openings.one())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    await asyncio.sleep(0.1)

    assert await openings.one() == "a connection"
