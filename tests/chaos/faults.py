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
LOCKED, FROZEN, SILENT, LATE = "users locked", "database frozen", "host silent", "answers late"
HIDDEN, CROWDED = "commits without an answer", "connections used up"
TERMINATED, RESET = "backends terminated in a storm", "connections reset"
FAST = "database restarted fast"
CLUSTER = "the cluster disturbed"
"""The span of a fault of `tests/cluster`."""
AWAY = {KILLED, RESTARTED}
"""The spans in which a client may find no server."""
HOLDING = AWAY | {FULL, LOCKED, FROZEN, SILENT, LATE, HIDDEN, CROWDED, CLUSTER}
"""The spans in which a call may wait. In the others each call is answered or refused at once."""
ABRUPT = {TERMINATED, RESET, FAST}
"""The faults after which nothing happens for `CALM`, so that a call that hangs is seen."""
CALM = 3.0
"""Seconds: longer than ValidateSession waits for its statement (2.5 s)."""

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


async def terminate_backends(scene: Scene) -> None:
    """Terminate all backends again and again, so that many calls meet it in a statement."""
    until = time.monotonic() + scene.seconds(0.5, 2.5)
    while time.monotonic() < until:
        await scene.cluster.postgres.administer(TERMINATE)
        await asyncio.sleep(scene.seconds(0, 0.1))


async def reset_connections(scene: Scene) -> None:
    """Answer statements with FATAL and RST, and in the end reset all connections at once."""
    wire = scene.cluster.wire
    for _ in range(scene.random.randrange(5, 20)):
        plan = wire.plan(Wired.RESET, at=scene.random.randrange(1, 7))
        with suppress(TimeoutError):
            await asyncio.wait_for(plan.met.wait(), 1)
    wire.heal()
    wire.reset()


async def restart_database_fast(scene: Scene) -> None:
    """Restart PostgreSQL in the modes fast and immediate, twice in a row."""
    modes = [scene.random.random() < 0.5 for _ in range(2)]
    for immediately in modes:
        await scene.cluster.postgres.restart(immediately=immediately)
        await asyncio.sleep(scene.seconds(0, 0.5))


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
    FAST: restart_database_fast,
    FROZEN: freeze_database,
    TERMINATED: terminate_backends,
    RESET: reset_connections,
    "connections cut": cut_connections,
    "connections cut at rest": cut_at_rest,
    HIDDEN: hide_commits,
    "database read only": refuse_writes,
    LOCKED: lock_users,
    CROWDED: crowd_database,
    FULL: fill_disk,
    "answers lost": lose_answers,
    SILENT: silence_host,
    LATE: delay_answers,
    "two at once": make_two,
}

NEAR = (KILLED, RESTARTED, RESET, "answers lost", SILENT, LATE)
FAR = (
    *("database killed", "database restarted", FAST, FROZEN, "connections cut", TERMINATED),
    *(HIDDEN, "database read only", LOCKED, FULL),
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
    if name in ABRUPT:
        await asyncio.sleep(CALM)
