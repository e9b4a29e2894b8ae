"""The faulty wire counts round trips, and causes the planned fault at the planned one."""

import asyncio
import os
import socket

import psycopg
import pytest

from tests.chaos.faulty_wire import FATAL, Fault, Wire
from tests.support.waiting import PATIENCE, eventually

ADD = "INSERT INTO users (id, email) VALUES (gen_random_uuid(), 'ada@example.com')"
COMMIT = 3
"""The round trip that commits, of a BEGIN, an INSERT and a COMMIT."""


@pytest.fixture
async def wire(database, database_url):
    async with Wire.to(database_url) as wire:
        yield wire


async def connect(wire, **given):
    return await psycopg.AsyncConnection.connect(wire.url, prepare_threshold=None, **given)


async def add(connection):
    await connection.execute(ADD)
    await connection.commit()


async def count(database):
    async with database.read() as db:
        found = await db.connection.exec_driver_sql("SELECT count(*) FROM users")
        return found.scalar_one()


async def test_wire_counts_round_trips_of_all_connections(wire):
    async with await connect(wire) as one, await connect(wire, autocommit=True) as other:
        assert wire.round_trips == 0
        await one.execute("SELECT 1")
        await one.commit()
        await other.execute("SELECT repeat('x', 100000)")

        assert (wire.round_trips, wire.connections) == (4, 2)
        assert sorted(link.round_trips for link in wire.links) == [1, 3]


@pytest.mark.parametrize(
    ("fault", "at", "kept"),
    [
        (Fault.CUT_BEFORE, COMMIT, 0),
        (Fault.RESET, COMMIT, 0),
        (Fault.CUT_AFTER, COMMIT, 1),
        (Fault.CUT_AFTER, COMMIT - 1, 0),
    ],
)
async def test_wire_cut_keeps_what_server_had_done(wire, database, fault, at, kept):
    connection = await connect(wire)
    plan = wire.plan(fault, at=at)

    with pytest.raises(psycopg.OperationalError):
        await add(connection)

    assert plan.met.is_set()
    assert await count(database) == kept
    async with await connect(wire) as another:
        await add(another) if not kept else await another.execute("SELECT 1")


async def test_wire_reset_ends_with_fatal_and_rst(wire):
    connection = await connect(wire, autocommit=True)
    idle = await connect(wire)
    wire.plan(Fault.RESET, at=1)
    with pytest.raises(psycopg.errors.AdminShutdown):
        await connection.execute("SELECT 1")

    end = asyncio.Event()
    asyncio.get_running_loop().add_reader(idle.fileno(), end.set)
    wire.reset()
    async with asyncio.timeout(PATIENCE):
        await end.wait()
    asyncio.get_running_loop().remove_reader(idle.fileno())
    with socket.socket(fileno=os.dup(idle.fileno())) as raw:
        assert raw.recv(1000) == FATAL
        with pytest.raises(ConnectionResetError):
            raw.recv(1000)
    await idle.close()


async def test_wire_holds_answer_until_release(wire, database):
    async with await connect(wire) as connection:
        plan = wire.plan(Fault.HOLD, at=COMMIT)
        adding = asyncio.create_task(add(connection))
        await plan.met.wait()
        assert await count(database) == 1
        assert not adding.done()

        plan.released.set()
        await adding


async def test_frozen_wire_passes_nothing_until_healed(wire, database):
    async with await connect(wire) as connection:
        plan = wire.plan(Fault.FREEZE, at=COMMIT)
        adding = asyncio.create_task(add(connection))
        await plan.met.wait()
        connecting = asyncio.create_task(connect(wire))
        done, _ = await asyncio.wait({adding, connecting}, timeout=0.1)
        assert (done, await count(database)) == (set(), 0)

        wire.heal()
        await adding
        await (await connecting).close()
    assert await count(database) == 1


async def test_wire_that_is_down_refuses_until_healed(wire):
    connection = await connect(wire)
    wire.take_down()
    with pytest.raises(psycopg.OperationalError):
        await connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        await connect(wire)

    wire.heal()
    await (await connect(wire)).close()


async def test_statement_is_cancelled_across_wire(wire):
    async with await connect(wire) as connection:
        sleeping = asyncio.create_task(connection.execute("SELECT pg_sleep(60)"))
        await eventually(lambda: was_asked(wire, 2))
        sleeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sleeping
        assert wire.cancelled.is_set()


async def test_wire_delays_answers(wire):
    loop = asyncio.get_running_loop()
    async with await connect(wire, autocommit=True) as connection:
        wire.delay = 0.2
        started = loop.time()
        await connection.execute("SELECT 1")
        assert loop.time() - started >= 0.2


async def was_asked(wire, times):
    return wire.round_trips >= times
