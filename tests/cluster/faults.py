"""The faults of the cluster: each is injected, lasts, and is repaired."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.cluster import Service
from tests.cluster import network
from tests.cluster import patroni_api as api
from tests.cluster.processes import Node
from tests.cluster.rig import Rig, until


@dataclass
class Scene:
    """The rig and the services during one fault."""

    rig: Rig
    services: Sequence[Service]
    leader: Node
    """The leader before the fault."""
    seconds: float
    """How long the fault lasts, or goes on after another machine was promoted."""
    promoted: float | None = None
    """When another machine was promoted."""

    async def last(self) -> None:
        """Let the fault last."""
        await asyncio.sleep(self.seconds)

    async def promotion(self) -> None:
        """Wait until another machine is promoted, and let the fault last."""
        others = [node for node in self.rig.nodes.values() if node is not self.leader]
        await until(lambda: any(map(api.is_leader, others)))
        self.promoted = time.monotonic()
        await self.last()


@dataclass(frozen=True)
class Fault:
    """A fault, and what it needs."""

    name: str
    inject: Callable[[Scene], Awaitable[None]]
    leaves_primary: bool = False
    """Whether the old primary runs on beside the new one."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of Patroni during the fault; all have other values before and afterwards."""


async def kill_postgres(scene: Scene) -> None:
    """Kill PostgreSQL on the leader: Patroni starts it again, or another machine takes over."""
    await asyncio.to_thread(scene.leader.kill_postgres)
    await scene.last()


async def kill_patroni(scene: Scene) -> None:
    """Kill Patroni on the leader: PostgreSQL goes on there while another machine is promoted."""
    scene.leader.patroni.kill()
    await scene.promotion()
    scene.leader.patroni.start()


async def kill_both(scene: Scene) -> None:
    """Kill Patroni and PostgreSQL on the leader, as the loss of a machine does."""
    scene.leader.patroni.kill()
    scene.leader.kill_postgres()
    await scene.promotion()
    scene.leader.patroni.start()


async def pull_link(scene: Scene) -> None:
    """Pull the cable of the leader."""
    network.set_link(scene.leader.name, up=False)
    try:
        await scene.promotion()
    finally:
        network.set_link(scene.leader.name, up=True)


async def freeze_patroni(scene: Scene) -> None:
    """Freeze Patroni on the leader, as a machine without memory does."""
    scene.leader.patroni.send(signal.SIGSTOP)
    try:
        await scene.promotion()
    finally:
        scene.leader.patroni.send(signal.SIGCONT)


ALL = (
    Fault("kill-postgres", kill_postgres),
    Fault("kill-patroni", kill_patroni, leaves_primary=True),
    Fault("kill-both", kill_both),
    Fault("freeze-patroni", freeze_patroni, leaves_primary=True),
    Fault("link-down", pull_link),
)
FAULTS = {fault.name: fault for fault in ALL}
