"""One run: clients and faults at the same time, and then the judgement."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NamedTuple
from uuid import uuid4

from tamatar_auth.migrator.migrations import Migrations
from tests.chaos.clients import Client
from tests.chaos.cluster import Cluster, Postgres, Service
from tests.chaos.evidence import Evidence, Stored
from tests.chaos.faults import FAULTS, Scene, make, possible
from tests.chaos.faulty_wire import Wire
from tests.chaos.history import History
from tests.chaos.load import SETTLED, call_during
from tests.chaos.rules import Violation, broken
from tests.chaos.shared_state import SharedState
from tests.chaos.stored_rows import read_stored

TEMPLATE = "chaos_template"
LONGEST = 900.0
"""Seconds after which a run with a minimum of writes ends."""


@dataclass(frozen=True)
class Plan:
    """The plan of a run. The seed decides calls and faults."""

    seed: int
    seconds: float
    writes: int = 0
    """The minimum of acknowledged writes, for which a run gets `LONGEST` seconds."""
    faults: Sequence[str] = tuple(FAULTS)
    clients: int = 10
    servers: int = 2
    mutant: str = ""


@dataclass(frozen=True)
class Result:
    """The results of a run."""

    plan: Plan
    evidence: Evidence
    violations: Sequence[Violation]

    @property
    def history(self) -> History:
        """The calls and the faults of the run."""
        return self.evidence.history


class Ground(NamedTuple):
    """The folder of runs, and the small disk for their databases, if there is one."""

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
    """Run clients and faults, and judge the results."""
    database = f"chaos_{uuid4().hex}"
    where = "TABLESPACE small" if postgres.disk else ""
    await postgres.administer(f"CREATE DATABASE {database} TEMPLATE {TEMPLATE} {where}")
    history = History()
    async with Wire.to(postgres.url(database)) as wire:
        urls = [postgres.url(database)] * (plan.servers - 1) + [wire.url]
        services = [Service(folder, url, plan.mutant) for url in urls]
        cluster = Cluster(postgres, database, services, wire)
        await cluster.start()
        try:
            await _call_and_disturb(plan, cluster, history)
        finally:
            codes = await cluster.end()
    if any(codes):
        history.said.append(f"servers ended with {codes}")
    for service in services:
        history.said += [f"a server logged {fault}" for fault in service.failed]
    evidence = Evidence(history, await _stored(postgres, database))
    await postgres.administer(f"DROP DATABASE {database} WITH (FORCE)")
    return Result(plan, evidence, broken(evidence))


async def _call_and_disturb(plan: Plan, cluster: Cluster, history: History) -> None:
    async def disturb(state: SharedState, calling: "asyncio.Future[list[None]]") -> None:
        await _disturb(plan, Scene(cluster, state, history, Random(plan.seed)), calling)

    await call_during(
        disturb,
        history,
        addresses=[service.address for service in cluster.services],
        database=lambda: cluster.postgres.url(cluster.database),
        seed=plan.seed,
        clients=[Client] * plan.clients,
    )


async def _disturb(plan: Plan, scene: Scene, calling: "asyncio.Future[list[None]]") -> None:
    began = time.monotonic()
    await asyncio.sleep(scene.seconds(0.3, 0.8))
    for fault in _without_end(possible(plan.faults, scene.cluster), scene.random):
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
    """Yield every fault once in random order, then again in another order, and so on."""
    while True:
        yield from random.sample(faults or ("",), k=len(faults) or 1)


async def _stored(postgres: Postgres, database: str) -> Stored:
    until = time.monotonic() + SETTLED
    others = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}'"  # noqa: S608
    while (await postgres.administer(others))[0][0]:
        if time.monotonic() > until:
            raise TimeoutError("connections of servers that ended stay")
        await asyncio.sleep(0.1)
    return await read_stored(postgres.url(database))
