"""The faults of the cluster: each is injected, lasts, and is repaired."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.cluster import Service
from tests.chaos.faults import RESTARTED
from tests.chaos.history import History
from tests.cluster import network
from tests.cluster import patroni_api as api
from tests.cluster.judgement import BOUND
from tests.cluster.processes import Node
from tests.cluster.rig import Rig, until

LONGER_THAN_TTL = 30.0
"""Seconds after which the lock of a silent leader has expired (`ttl` is 20), and was taken."""

JUDGED = 6.0
"""Seconds in which an old primary is called after `BOUND`."""

WATCHDOG = 15.0
"""Seconds after which a watchdog resets a machine: `ttl` without the `safety_margin`."""


@dataclass
class Scene:
    """The rig and the services during one fault."""

    rig: Rig
    services: Sequence[Service]
    history: History
    leader: Node
    """The leader before the fault."""
    seconds: float
    """How long the fault lasts, or goes on after another machine was promoted."""
    unpromoted: float = field(default_factory=time.monotonic)
    """When no other machine had been promoted yet."""
    promoted: float | None = None
    """When another machine was promoted: `unpromoted` is a little earlier."""

    async def last(self, least: float = 0) -> None:
        """Let the fault last, at least for some seconds."""
        await asyncio.sleep(max(self.seconds, least))

    async def promotion(self) -> None:
        """Wait until another machine is promoted, and let the fault last."""
        others = [node for node in self.rig.nodes.values() if node is not self.leader]

        def is_promoted() -> bool:
            asked = time.monotonic()
            if any(map(api.is_leader, others)):
                return True
            self.unpromoted = asked
            return False

        await until(is_promoted)
        self.promoted = time.monotonic()
        await self.last()

    async def possible_promotion(self) -> None:
        """Wait for a promotion for as long as the leader's lock lives, and some time more."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.promotion(), LONGER_THAN_TTL + self.seconds)


@dataclass(frozen=True)
class Fault:
    """A fault, and what it needs."""

    name: str
    inject: Callable[[Scene], Awaitable[None]]
    leaves_primary: bool = False
    """Whether the old primary runs on beside the new one."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of Patroni during the fault; all have other values before and afterwards."""
    is_default: bool = True
    """Whether it is tried if no faults are named."""

    @property
    def least(self) -> float:
        """Seconds that it lasts at least: calls are made to an old primary after its bound."""
        return BOUND + JUDGED if self.leaves_primary else 0


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


async def reset_machine(scene: Scene) -> None:
    """Kill Patroni on the leader, and then PostgreSQL when a watchdog would reset the machine."""
    scene.leader.patroni.kill()
    await asyncio.sleep(WATCHDOG)
    scene.leader.kill_postgres()
    await scene.promotion()
    scene.leader.patroni.start()


async def freeze_postgres(scene: Scene) -> None:
    """Freeze PostgreSQL on the leader: its connections stay open and nothing is answered."""
    with scene.leader.postgres_frozen():
        await scene.possible_promotion()


async def freeze_standby(scene: Scene) -> None:
    """Freeze PostgreSQL on the synchronous standby, so that commits wait."""
    standby = await scene.rig.synchronous_standby()
    with standby.postgres_frozen():
        await scene.last(LONGER_THAN_TTL)


async def cut_from_etcd(scene: Scene) -> None:
    """Lose all packets of the leader to etcd."""
    network.cut(scene.leader.name, "etcd1")
    try:
        await scene.possible_promotion()
    finally:
        network.mend(scene.leader.name, "etcd1")


async def stop_etcd(scene: Scene) -> None:
    """Kill etcd, for longer than the leader's lock lives."""
    scene.rig.etcd.kill()
    await scene.last(LONGER_THAN_TTL)
    scene.rig.etcd.start()


async def switch_over(scene: Scene) -> None:
    """Switch over to the synchronous standby with patronictl."""
    standby = await scene.rig.synchronous_standby()
    names = ("--leader", scene.leader.name, "--candidate", standby.name)
    await asyncio.to_thread(scene.leader.patronictl, "switchover", *names, "--force")
    await scene.promotion()


async def restart_leader(scene: Scene) -> None:
    """Restart PostgreSQL on the leader with patronictl."""
    restart = ("restart", "auth", scene.leader.name, "--force")
    await asyncio.to_thread(scene.leader.patronictl, *restart)
    await scene.last()


async def reload_haproxy(scene: Scene) -> None:
    """Reload HAProxy, which replaces its worker."""
    scene.rig.haproxy.send(signal.SIGUSR2)
    await scene.last(10)


async def restart_services(scene: Scene) -> None:
    """Restart one service after the other, as an upgrade does, with a switchover in between."""
    with scene.history.during(RESTARTED):
        for service in scene.services:
            if code := await service.end():
                scene.history.said.append(f"a service exited with {code}")
            await service.start()
            if scene.promoted is None:
                await switch_over(scene)


ALL = (
    Fault("kill-postgres", kill_postgres),
    Fault("kill-patroni", kill_patroni, leaves_primary=True),
    Fault("kill-both", kill_both),
    Fault("watchdog-reset", reset_machine),
    Fault("freeze-postgres", freeze_postgres, leaves_primary=True),
    Fault("freeze-patroni", freeze_patroni, leaves_primary=True),
    Fault("freeze-standby", freeze_standby),
    Fault("link-down", pull_link),
    Fault("cut-from-etcd", cut_from_etcd),
    Fault("etcd-away", stop_etcd),
    Fault("etcd-away-no-failsafe", stop_etcd, settings={"failsafe_mode": False}),
    Fault("switchover", switch_over),
    Fault("restart-leader", restart_leader),
    Fault("haproxy-reload", reload_haproxy),
    Fault("rolling-upgrade", restart_services),
    Fault(
        "kill-patroni-quorum",
        kill_patroni,
        leaves_primary=True,
        settings={"synchronous_mode": "quorum"},
        is_default=False,
    ),
)
FAULTS = {fault.name: fault for fault in ALL}
