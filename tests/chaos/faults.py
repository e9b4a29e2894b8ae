"""What is done to the service and its database while clients call."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from random import Random

import psycopg

from tests.chaos.cluster import House
from tests.chaos.faulty_wire import Fault as Wired
from tests.chaos.history import History, Span
from tests.chaos.shared_state import World
from tests.chaos.small_disk import filled

LONGEST_HEAL = 30.0
"""Seconds after which what has not healed will not heal. The promise is 3."""

AT_REST = "after connections were cut at rest"
"""The span in which no call may hear of connections that died while nobody used them."""

KILLED, RESTARTED = "servers killed", "servers restarted"
FULL = "disk full"
AWAY = {KILLED, RESTARTED}
"""The spans in which a client may find no server."""

TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
)
TERMINATE_AND_WAIT = TERMINATE.replace("(pid)", "(pid, 5000)")
"""The same, until their processes have gone, or for so many milliseconds each."""
RELOAD = "SELECT pg_reload_conf()"


@dataclass(frozen=True)
class Scene:
    """Where faults are made: the house, the world and the chance of a run."""

    house: House
    world: World
    history: History
    random: Random

    def seconds(self, least: float, most: float) -> float:
        """Choose how long something lasts."""
        return self.random.uniform(least, most)


Fault = Callable[[Scene], Awaitable[None]]


async def kill_servers(scene: Scene) -> None:
    """Kill -9 of one server, or of all; they are started again."""
    services = scene.house.services
    killed = services if scene.random.random() < 0.3 else [scene.random.choice(services)]
    for service in killed:
        await service.kill()
    await asyncio.gather(*(service.start() for service in killed))


async def restart_servers(scene: Scene) -> None:
    """SIGTERM to one server after the other, each of which ends what it began."""
    for service in scene.house.services:
        if code := await service.end():
            scene.history.said.append(f"a server ended with {code}")
        await service.start()


async def kill_database(scene: Scene) -> None:
    """Kill -9 of all processes of PostgreSQL; it recovers from its log."""
    await scene.house.postgres.kill()
    await asyncio.sleep(scene.seconds(0, 0.5))
    await scene.house.postgres.start()


async def restart_database(scene: Scene) -> None:
    """An orderly restart, which ends connections with 57P01."""
    await scene.house.postgres.stop()
    await asyncio.sleep(scene.seconds(0, 1.0))
    await scene.house.postgres.start()


async def freeze_database(scene: Scene) -> None:
    """SIGSTOP and SIGCONT: connections stand, nothing is answered."""
    with scene.house.postgres.frozen():
        await asyncio.sleep(scene.seconds(0.2, 2.0))


async def cut_connections(scene: Scene) -> None:
    """Terminate backends, some of them in the middle of a transaction."""
    for _ in range(scene.random.randrange(1, 4)):
        await scene.house.postgres.administer(f"{TERMINATE} AND random() < 0.7")
        await asyncio.sleep(scene.seconds(0.02, 0.2))


async def cut_at_rest(scene: Scene) -> None:
    """Terminate all backends while no call is in flight: no call may hear of it."""
    async with scene.world.pause():
        await scene.house.postgres.administer(TERMINATE_AND_WAIT)
        await asyncio.sleep(0.3)
        began = time.monotonic()
    await asyncio.sleep(1.0)
    scene.history.faults.append(Span(AT_REST, began, time.monotonic()))


async def hide_commits(scene: Scene) -> None:
    """Let commits happen of which nobody hears.

    They wait for a standby that is not there, and are cut while they wait: what they wrote
    is kept.
    """
    postgres = scene.house.postgres
    await postgres.administer("ALTER SYSTEM SET synchronous_standby_names = 'nobody'", RELOAD)
    await asyncio.sleep(scene.seconds(0.2, 0.6))
    cut = scene.random.random() < 0.7
    await (postgres.administer(TERMINATE) if cut else kill_database(scene))
    await postgres.administer("ALTER SYSTEM RESET synchronous_standby_names", RELOAD)


async def refuse_writes(scene: Scene) -> None:
    """Let the database be read only, as one that was a primary is."""
    postgres = scene.house.postgres
    await postgres.administer("ALTER SYSTEM SET default_transaction_read_only = on", RELOAD)
    await asyncio.sleep(scene.seconds(0.2, 1.0))
    await postgres.administer("ALTER SYSTEM RESET default_transaction_read_only", RELOAD)


async def lock_users(scene: Scene) -> None:
    """Hold a lock that every change waits for, so that pools run dry."""
    url = scene.house.postgres.url(scene.house.database)
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await connection.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        await asyncio.sleep(scene.seconds(0.3, 1.5))


async def crowd_database(scene: Scene) -> None:
    """Take all connections that PostgreSQL allows, and cut those of the servers."""
    url = scene.house.postgres.url(scene.house.database)
    async with AsyncExitStack() as crowd:
        until = time.monotonic() + scene.seconds(0.5, 1.5)
        await scene.house.postgres.administer(TERMINATE)
        while time.monotonic() < until:
            with suppress(psycopg.OperationalError):
                connection = await psycopg.AsyncConnection.connect(url)
                await crowd.enter_async_context(connection)
                continue
            await asyncio.sleep(0.1)


async def fill_disk(scene: Scene) -> None:
    """Leave no room for new pages of tables and indexes."""
    disk = scene.house.postgres.disk
    assert disk is not None
    with filled(disk):
        await asyncio.sleep(scene.seconds(0.5, 2.0))


async def lose_answers(scene: Scene) -> None:
    """Let the database do what it is asked, and cut the connection before it says so."""
    wire = scene.house.wire
    for _ in range(scene.random.randrange(5, 20)):
        plan = wire.plan(Wired.CUT_AFTER, at=scene.random.randrange(1, 7))
        with suppress(TimeoutError):
            await asyncio.wait_for(plan.met.wait(), 1)
    wire.heal()


async def silence_host(scene: Scene) -> None:
    """Let nothing pass between a server and the database, and no connection end."""
    scene.house.wire.freeze()
    await asyncio.sleep(scene.seconds(0.3, 3.0))
    scene.house.wire.heal()


async def delay_answers(scene: Scene) -> None:
    """Let every answer of the database be late."""
    scene.house.wire.delay = scene.seconds(0.02, 0.2)
    await asyncio.sleep(scene.seconds(0.3, 1.5))
    scene.house.wire.heal()


async def make_two(scene: Scene) -> None:
    """Let a server or its way to the database fail while the database does."""
    near, far = scene.random.choice(NEAR), scene.random.choice(possible(FAR, scene.house))
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


def possible(faults: Sequence[str], house: House) -> Sequence[str]:
    """Leave out what cannot be made here."""
    return [fault for fault in faults if fault != FULL or house.postgres.disk]


async def make(name: str, scene: Scene) -> None:
    """Make a fault, and wait until all is well again."""
    with scene.history.during(name):
        await FAULTS[name](scene)
        ended = time.monotonic()
        while not await scene.house.is_well():
            if time.monotonic() > ended + LONGEST_HEAL:
                scene.history.said.append(f"{name}: not healed after {LONGEST_HEAL:.0f} s")
                return
            await asyncio.sleep(0.05)
    scene.history.heals.setdefault(name, []).append(time.monotonic() - ended)
