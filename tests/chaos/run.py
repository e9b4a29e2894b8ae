"""One run: clients and faults at the same time, then the look at what is left."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NamedTuple
from uuid import uuid4

import grpc
import psycopg
from psycopg.rows import class_row

from tamatar_auth.migrator.migrations import Migrations
from tests.chaos.clients import Client
from tests.chaos.cluster import House, Postgres, Service
from tests.chaos.evidence import Evidence, Stored, StoredSession, StoredUser
from tests.chaos.faults import FAULTS, Scene, make, possible
from tests.chaos.faulty_wire import Wire
from tests.chaos.history import History
from tests.chaos.recording_client import RECONNECT, Server
from tests.chaos.rules import Violation, broken
from tests.chaos.shared_state import World
from tests.chaos.watchers import hear_last, watch

TEMPLATE = "chaos_template"
SETTLED = 30.0
"""Seconds after which a connection that is still there will stay."""

WATCHERS = 2
"""How many of the clients watch sessions, at each server."""

LONGEST = 900.0
"""Seconds after which a run ends that was to have more writes."""

_USERS = """
    SELECT u.id::text, email, coalesce(first_name, '') AS first_name, is_active,
        deleted_at IS NOT NULL AS is_deleted, version, p.user_id IS NOT NULL AS has_profile
    FROM users u LEFT JOIN user_profiles p ON p.user_id = u.id
"""
_SESSIONS = 'SELECT id::text, user_id::text AS "user", is_valid FROM sessions'


@dataclass(frozen=True)
class Plan:
    """What a run does. The seed decides what clients do and which faults are made."""

    seed: int
    seconds: float
    writes: int = 0
    """How many have to be acknowledged before it ends, for which it gets `LONGEST` seconds."""
    faults: Sequence[str] = tuple(FAULTS)
    clients: int = 10
    servers: int = 2
    sabotage: str = ""


@dataclass(frozen=True)
class Result:
    """What came of a run."""

    plan: Plan
    evidence: Evidence
    violations: Sequence[Violation]

    @property
    def history(self) -> History:
        """What was asked, and what was done."""
        return self.evidence.history


class Ground(NamedTuple):
    """Where runs keep their files, and the small disk for their databases, if there is one."""

    folder: Path
    disk: Path | None


@contextlib.asynccontextmanager
async def database_server(ground: Ground) -> AsyncIterator[Postgres]:
    """Run a PostgreSQL with a template of all tables."""
    postgres, disk = Postgres(ground.folder, ground.disk), ground.disk
    await postgres.start()
    try:
        if disk is not None:
            (disk / "tables").mkdir()
            await postgres.administer(f"CREATE TABLESPACE small LOCATION '{disk / 'tables'}'")
        await postgres.administer(f"CREATE DATABASE {TEMPLATE}")
        await asyncio.to_thread(Migrations(postgres.url(TEMPLATE)).upgrade)
        yield postgres
    finally:
        await postgres.stop()


async def run(plan: Plan, postgres: Postgres, folder: Path) -> Result:
    """Let clients call and faults happen, and judge what is left."""
    database = f"chaos_{uuid4().hex}"
    where = "TABLESPACE small" if postgres.disk else ""
    await postgres.administer(f"CREATE DATABASE {database} TEMPLATE {TEMPLATE} {where}")
    history = History()
    async with Wire.to(postgres.url(database)) as wire:
        urls = [postgres.url(database)] * (plan.servers - 1) + [wire.url]
        services = [Service(folder, url, plan.sabotage) for url in urls]
        house = House(postgres, database, services, wire)
        await house.start()
        try:
            await _call_and_disturb(plan, house, history)
        finally:
            codes = await house.end()
    if any(codes):
        history.said.append(f"servers ended with {codes}")
    for service in services:
        history.said += [f"a server logged {fault}" for fault in service.failed]
    evidence = Evidence(history, await _stored(postgres, database))
    await postgres.administer(f"DROP DATABASE {database} WITH (FORCE)")
    return Result(plan, evidence, broken(evidence))


async def _call_and_disturb(plan: Plan, house: House, history: History) -> None:
    world = World(history)
    async with AsyncExitStack() as stack:
        clients = []
        for number in range(plan.clients):
            servers = [
                Server.at(await stack.enter_async_context(_channel(service.address, number)))
                for service in house.services
            ]
            clients.append(Client(world, servers, Random(f"{plan.seed} {number}")))
        watching = [
            asyncio.ensure_future(watch(world, server))
            for client in clients[:WATCHERS]
            for server in client.servers
        ]
        calling = asyncio.gather(*(client.run() for client in clients))
        try:
            scene = Scene(house, world, history, Random(plan.seed))
            await _disturb(plan, scene, calling)
        finally:
            world.is_over = True
            await calling
        await _forget_attempts(house)
        await clients[0].look_back()
        await hear_last(history, await asyncio.wait_for(clients[0].end_one(), SETTLED))
        for each in watching:
            each.cancel()
        for outcome in await asyncio.gather(*watching, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome


async def _disturb(plan: Plan, scene: Scene, calling: "asyncio.Future[list[None]]") -> None:
    began = time.monotonic()
    await asyncio.sleep(scene.seconds(0.3, 0.8))
    for fault in _without_end(possible(plan.faults, scene.house), scene.random):
        if _is_enough(plan, time.monotonic() - began, scene.history) or calling.done():
            return
        if fault:
            await make(fault, scene)
        await asyncio.sleep(scene.seconds(0.2, 1.2))


def _is_enough(plan: Plan, seconds: float, history: History) -> bool:
    if seconds <= plan.seconds:
        return False
    return history.acknowledged >= plan.writes or seconds > LONGEST


def _without_end(faults: Sequence[str], random: Random) -> Iterable[str]:
    """Give every fault once in some order, then again in another order, and so on."""
    while True:
        yield from random.sample(faults or ("",), k=len(faults) or 1)


def _channel(address: str, number: int) -> grpc.aio.Channel:
    # A client each: channels with the same options share a connection.
    return grpc.aio.insecure_channel(address, options=[*RECONNECT, ("chaos.client", number)])


async def _forget_attempts(house: House) -> None:
    url = house.postgres.url(house.database)
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("TRUNCATE password_attempts")


async def _stored(postgres: Postgres, database: str) -> Stored:
    until = time.monotonic() + SETTLED
    others = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}'"  # noqa: S608
    while (await postgres.administer(others))[0][0]:
        if time.monotonic() > until:
            raise TimeoutError("connections of servers that ended stay")
        await asyncio.sleep(0.1)
    async with await psycopg.AsyncConnection.connect(postgres.url(database)) as connection:
        users = await connection.cursor(row_factory=class_row(StoredUser)).execute(_USERS)
        sessions = connection.cursor(row_factory=class_row(StoredSession))
        found = await (await sessions.execute(_SESSIONS)).fetchall()
        return Stored(
            {user.id: user for user in await users.fetchall()},
            {session.id: session for session in found},
        )
