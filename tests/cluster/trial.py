"""One fault while clients call, and its judgement."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

from tests.chaos.clients import Client
from tests.chaos.cluster import Service
from tests.chaos.evidence import Evidence
from tests.chaos.faults import CLUSTER, LONGEST_HEAL
from tests.chaos.history import History, Span
from tests.chaos.load import SETTLED, call_during
from tests.chaos.shared_state import SharedState
from tests.chaos.stored_rows import read_stored
from tests.cluster.faults import Fault, Scene
from tests.cluster.judgement import Judgement, Moments, judge
from tests.cluster.prober import Prober
from tests.cluster.rig import Rig

CLIENTS = (*[Client] * 6, Prober)
WARM_UP, COOL_DOWN = 4.0, 5.0
"""Seconds of calls before the fault, and after all is well again."""

REJOINING = 20.0
"""Seconds in which clients go on to call while a machine joins the cluster again."""


class Trial:
    """A fault, injected while clients call services on a database of their own."""

    def __init__(
        self, rig: Rig, fault: Fault, seconds: float, report: Callable[[str], None]
    ) -> None:
        self._rig, self._fault, self._seconds, self._report = rig, fault, seconds, report
        self._history = History()
        self._services: Sequence[Service] = ()
        self._moments: Moments | None = None
        self._database, self._url = "", ""

    async def run(self, folder: Path) -> Judgement:
        """Call, inject the fault, repair it, and judge the results."""
        settings = self._fault.settings
        before = await self._rig.configure(**settings) if settings else {}
        await self._rig.until_whole()
        database = self._database = await self._rig.new_database()
        urls = await self._rig.service_urls(database)
        self._services = [Service(folder, url) for url in urls.values()]
        await asyncio.gather(*(service.start() for service in self._services))
        try:
            await call_during(
                self._disturb,
                self._history,
                addresses=[service.address for service in self._services],
                database=lambda: self._url,
                seed=Random().randrange(10**6),
                clients=CLIENTS,
            )
        finally:
            codes = await asyncio.gather(*(service.end() for service in self._services))
        if any(codes):
            self._history.said.append(f"services ended with {codes}")
        for service in self._services:
            self._history.said += [f"a service logged {fault}" for fault in service.failed]
        if before:
            await self._rig.configure(**before)
        return await self._judged(database)

    async def _disturb(self, _: SharedState, calling: "asyncio.Future[list[None]]") -> None:
        await asyncio.sleep(WARM_UP)
        leader = await self._rig.leader()
        seconds = max(self._seconds, self._fault.least)
        scene = Scene(self._rig, self._services, self._history, leader, seconds)
        began = time.monotonic()
        await self._fault.inject(scene)
        await self._rig.until_writable()
        repaired = time.monotonic()
        await self._wait_until_served(repaired)
        healed = time.monotonic()
        self._history.faults.append(Span(CLUSTER, began, healed))
        self._moments = Moments(
            began=began,
            unpromoted=scene.unpromoted,
            promoted=scene.promoted,
            repaired=repaired,
            healed=healed,
            leaves_primary=self._fault.leaves_primary,
        )
        promoted = f"promoted after {scene.promoted - began:.1f} s, " if scene.promoted else ""
        self._report(f"{promoted}repaired, healed after {healed - repaired:.1f} s")
        with suppress(TimeoutError):
            await self._rig.until_whole(REJOINING)
        await asyncio.sleep(COOL_DOWN)
        self._url = await self._rig.primary_url(self._database)
        if calling.done():
            await calling

    async def _wait_until_served(self, repaired: float) -> None:
        while not all(await asyncio.gather(*(one.is_well() for one in self._services))):
            if time.monotonic() > repaired + LONGEST_HEAL:
                self._history.said.append(f"not healed after {LONGEST_HEAL:.0f} s")
                return
            await asyncio.sleep(0.05)
        self._history.heals[self._fault.name] = [time.monotonic() - repaired]

    async def _judged(self, database: str) -> Judgement:
        assert self._moments is not None
        await self._rig.until_whole()
        self._report(f"whole after {time.monotonic() - self._moments.repaired:.1f} s")
        until = time.monotonic() + SETTLED
        others = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}'"  # noqa: S608
        while (await self._rig.administer(others))[0][0]:
            if time.monotonic() > until:
                raise TimeoutError("connections of services that ended stay")
            await asyncio.sleep(0.1)
        stored = await read_stored(await self._rig.primary_url(database))
        await self._rig.administer(f"DROP DATABASE {database} WITH (FORCE)")
        return judge(Evidence(self._history, stored), self._moments)
