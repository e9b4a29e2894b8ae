"""Faults of the service and its database while clients call."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from random import Random

import psycopg

from tests.chaos.cluster import Cluster
from tests.chaos.faulty_wire import Fault as Wired
from tests.chaos.history import History, Span
from tests.chaos.shared_state import SharedState
from tests.chaos.small_disk import filled

LONGEST_HEAL = 30.0
"""Seconds after which a fault counts as not healed. The promise is 3."""

AT_REST = "after connections were cut at rest"
"""The span in which no call may notice connections that died while unused."""

KILLED, RESTARTED = "servers killed", "servers restarted"
FULL = "disk full"
AWAY = {KILLED, RESTARTED}
"""The spans in which a client may find no server."""

TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
)
TERMINATE_AND_WAIT = TERMINATE.replace("(pid)", "(pid, 5000)")
"""The same, until their processes have ended, or for some milliseconds each."""
RELOAD = "SELECT pg_reload_conf()"


@dataclass(frozen=True)
class Scene:
    """The cluster, the shared state and the random numbers of a run."""

    cluster: Cluster
    state: SharedState
    history: History
    random: Random

    def seconds(self, least: float, most: float) -> float:
        """Choose a duration."""
        return self.random.uniform(least, most)


Fault = Callable[[Scene], Awaitable[None]]


async def kill_servers(scene: Scene) -> None:
    """Kill one server or all with SIGKILL; start them again."""
    services = scene.cluster.services
    killed = services if scene.random.random() < 0.3 else [scene.random.choice(services)]
    for service in killed:
        await service.kill()
    await asyncio.gather(*(service.start() for service in killed))


async def restart_servers(scene: Scene) -> None:
    """Stop one server after the other with SIGTERM; each finishes its calls."""
    for service in scene.cluster.services:
        if code := await service.end():
            scene.history.said.append(f"a server ended with {code}")
        await service.start()


async def kill_database(scene: Scene) -> None:
    """Kill all processes of PostgreSQL; it recovers from its log."""
    await scene.cluster.postgres.kill()
    await asyncio.sleep(scene.seconds(0, 0.5))
    await scene.cluster.postgres.start()


async def restart_database(scene: Scene) -> None:
    """Restart PostgreSQL in order, which ends connections with 57P01."""
    await scene.cluster.postgres.stop()
    await asyncio.sleep(scene.seconds(0, 1.0))
    await scene.cluster.postgres.start()


async def freeze_database(scene: Scene) -> None:
    """Stop and continue all processes: connections stay open and nothing is answered."""
    with scene.cluster.postgres.frozen():
        await asyncio.sleep(scene.seconds(0.2, 2.0))


async def cut_connections(scene: Scene) -> None:
    """Terminate backends, some of them during a transaction."""
    for _ in range(scene.random.randrange(1, 4)):
        await scene.cluster.postgres.administer(f"{TERMINATE} AND random() < 0.7")
        await asyncio.sleep(scene.seconds(0.02, 0.2))


async def cut_at_rest(scene: Scene) -> None:
    """Terminate all backends while no call is in flight: no call may notice."""
    async with scene.state.pause():
        await scene.cluster.postgres.administer(TERMINATE_AND_WAIT)
        await asyncio.sleep(0.3)
        began = time.monotonic()
    await asyncio.sleep(1.0)
    scene.history.faults.append(Span(AT_REST, began, time.monotonic()))


async def hide_commits(scene: Scene) -> None:
    """Let commits happen without an answer.

    They wait for a standby that does not exist, and are cut while they wait: their writes
    are kept.
    """
    postgres = scene.cluster.postgres
    await postgres.administer("ALTER SYSTEM SET synchronous_standby_names = 'none'", RELOAD)
    await asyncio.sleep(scene.seconds(0.2, 0.6))
    cut = scene.random.random() < 0.7
    await (postgres.administer(TERMINATE) if cut else kill_database(scene))
    await postgres.administer("ALTER SYSTEM RESET synchronous_standby_names", RELOAD)


async def refuse_writes(scene: Scene) -> None:
    """Make the database read-only, like a former primary."""
    postgres = scene.cluster.postgres
    await postgres.administer("ALTER SYSTEM SET default_transaction_read_only = on", RELOAD)
    await asyncio.sleep(scene.seconds(0.2, 1.0))
    await postgres.administer("ALTER SYSTEM RESET default_transaction_read_only", RELOAD)


async def lock_users(scene: Scene) -> None:
    """Hold a lock that every change waits for, so that pools are exhausted."""
    url = scene.cluster.postgres.url(scene.cluster.database)
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await connection.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        await asyncio.sleep(scene.seconds(0.3, 1.5))


async def crowd_database(scene: Scene) -> None:
    """Take all connections that PostgreSQL allows, and cut those of the servers."""
    url = scene.cluster.postgres.url(scene.cluster.database)
    async with AsyncExitStack() as crowd:
        until = time.monotonic() + scene.seconds(0.5, 1.5)
        await scene.cluster.postgres.administer(TERMINATE)
        while time.monotonic() < until:
            with suppress(psycopg.OperationalError):
                connection = await psycopg.AsyncConnection.connect(url)
                await crowd.enter_async_context(connection)
                continue
            await asyncio.sleep(0.1)


async def fill_disk(scene: Scene) -> None:
    """Leave no space for new pages of tables and indexes."""
    disk = scene.cluster.postgres.disk
    assert disk is not None
    with filled(disk):
        await asyncio.sleep(scene.seconds(0.5, 2.0))


async def lose_answers(scene: Scene) -> None:
    """Let the database do its work, and cut the connection before the answer."""
    wire = scene.cluster.wire
    for _ in range(scene.random.randrange(5, 20)):
        plan = wire.plan(Wired.CUT_AFTER, at=scene.random.randrange(1, 7))
        with suppress(TimeoutError):
            await asyncio.wait_for(plan.met.wait(), 1)
    wire.heal()


async def silence_host(scene: Scene) -> None:
    """Drop everything between a server and the database without ending connections."""
    scene.cluster.wire.freeze()
    await asyncio.sleep(scene.seconds(0.3, 3.0))
    scene.cluster.wire.heal()


async def delay_answers(scene: Scene) -> None:
    """Delay every answer of the database."""
    scene.cluster.wire.delay = scene.seconds(0.02, 0.2)
    await asyncio.sleep(scene.seconds(0.3, 1.5))
    scene.cluster.wire.heal()


async def make_two(scene: Scene) -> None:
    """Let a server or its wire fail while the database fails."""
    near, far = scene.random.choice(NEAR), scene.random.choice(possible(FAR, scene.cluster))
    with scene.history.during(near), scene.history.during(far):
        await asyncio.gather(FAULTS[near](scene), FAULTS[far](scene))


FAULTS: dict[str, Fault] = {
    KILLED: kill_servers,
    RESTARTED: restart_servers,
    "database killed": kill_database,
    "database restarted": restart_database,
    "database frozen": freeze_database,
    "connections cut": cut_connections,
    "connections cut at rest": cut_at_rest,
    "commits without an answer": hide_commits,
    "database read only": refuse_writes,
    "users locked": lock_users,
    "connections used up": crowd_database,
    FULL: fill_disk,
    "answers lost": lose_answers,
    "host silent": silence_host,
    "answers late": delay_answers,
    "two at once": make_two,
}

NEAR = (KILLED, RESTARTED, "answers lost", "host silent", "answers late")
FAR = (
    *("database killed", "database restarted", "database frozen", "connections cut"),
    *("commits without an answer", "database read only", "users locked"),
    FULL,
)


def possible(faults: Sequence[str], cluster: Cluster) -> Sequence[str]:
    """Return the faults that can be made here."""
    return [fault for fault in faults if fault != FULL or cluster.postgres.disk]


async def make(name: str, scene: Scene) -> None:
    """Make a fault, and wait until all is well again."""
    with scene.history.during(name):
        await FAULTS[name](scene)
        ended = time.monotonic()
        while not await scene.cluster.is_well():
            if time.monotonic() > ended + LONGEST_HEAL:
                scene.history.said.append(f"{name}: not healed after {LONGEST_HEAL:.0f} s")
                return
            await asyncio.sleep(0.05)
    scene.history.heals.setdefault(name, []).append(time.monotonic() - ended)
