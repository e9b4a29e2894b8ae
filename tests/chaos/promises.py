"""The promises that are not about stored data; each is tried by itself and reported in a line.

A forbidden event fails the run. Times are reported and fail nothing, as they depend on the machine.
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import bcrypt
import psycopg

from tamatar.auth.v1.portable_user_pb2 import PortableUser
from tamatar.auth.v1.user_service_pb2 import GetUserRequest, ImportUsersRequest, UpdateUserRequest
from tamatar_auth.client import AuthError
from tamatar_auth.client.aio import AuthClient, connect
from tamatar_auth.storage.repositories.login_attempts import FREE_ATTEMPTS
from tests.chaos.cluster import Service
from tests.chaos.hostile import ATTACKS
from tests.chaos.lost_connections import connections_lost
from tests.chaos.promise_table import (
    Ground,
    Row,
    are_well,
    cluster,
    health,
    outcome,
    pool_is_free,
    says,
    servers_of,
    timed,
    unknown_user,
    until,
)
from tests.support.calls import PASSWORD, ada, sign_in, validate
from tests.support.commands import COMMAND, environment

ROUNDS, CALLERS = 20, 50
WAITING = 8
"""The number of concurrent calls that wait for PostgreSQL; the pool has as many connections."""
SHORT = 0.3
"""The deadline of these calls in seconds."""
PAUSE = 5.0
"""Seconds between the restarts of two servers. It is longer than the client may take to reconnect
to the first one (3 s): restarts within that time leave a moment without any server."""
STORM = 8.0
"""Seconds during which users sign in without pause."""
MEMORY = 400 * 2**20
"""Bytes that a server may have under attack."""
MEMORY_HELD = 10.0
"""Seconds after an attack, until most of this memory is free again."""


async def one_live_user(ground: Ground) -> Row:
    """Create a user of one address in many concurrent calls at two servers."""
    row = Row("one live user of an address", f"{CALLERS} callers at 2 servers, {ROUNDS} times")
    async with cluster(ground, 2) as (services, _), servers_of(services) as servers:
        for _ in range(ROUNDS):
            letters = f"ada.{uuid4().hex[:12]}"
            emails = itertools.cycle([letters.upper(), letters, letters.title()])
            calls = [
                outcome(servers[number % 2].users.CreateUser(ada(email=f"{email}@example.com")))
                for number, email in zip(range(CALLERS), emails, strict=False)
            ]
            outcomes = Counter(await asyncio.gather(*calls))
            row.calls += CALLERS
            row.forbidden["created twice"] += max(0, outcomes.pop("OK", 0) - 1)
            row.forbidden["never created"] += outcomes.pop("EMAIL_TAKEN", 0) == CALLERS
            row.forbidden += outcomes
    return row


async def deadlines(ground: Ground) -> Row:
    """Make PostgreSQL wait for a lock, and freeze it, beyond the deadlines of calls."""
    row = Row(
        "a call ends at its deadline",
        f"{WAITING} calls of {SHORT} s wait for a lock, or for a frozen server, 10 times each",
    )
    late: list[float] = []
    freed: list[float] = []
    async with cluster(ground, 1) as (services, url), servers_of(services) as (server,):

        async def wait() -> None:
            asked = [
                timed(server.users.GetUser(unknown_user(), timeout=SHORT)) for _ in range(WAITING)
            ]
            for code, seconds in await asyncio.gather(*asked):
                row.calls += 1
                late.append(seconds - SHORT)
                if code not in {"DEADLINE_EXCEEDED", "STORAGE_UNAVAILABLE"}:
                    row.forbidden[code] += 1

        for _ in range(10):
            async with await psycopg.AsyncConnection.connect(url) as holder:
                await holder.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
                await wait()
                freed.append(await until(lambda: pool_is_free(server)))
        for _ in range(10):
            with ground.postgres.frozen():
                await wait()
            await until(lambda: pool_is_free(server))
    row.times = {"answered after the deadline by": late, "connections free after": freed}
    return row


async def database_gone(ground: Ground) -> Row:
    """Kill the database, call, and start it again."""
    row = Row("the database is gone", "killed and started again 5 times")
    refused: list[float] = []
    noticed: list[float] = []
    healed: list[float] = []
    async with cluster(ground, 1) as (services, _), servers_of(services) as (server,):
        for _ in range(5):
            await ground.postgres.kill()
            calls = [timed(server.users.GetUser(unknown_user(), timeout=5)) for _ in range(20)]
            noticing = asyncio.create_task(until(lambda: says(server, serving=False)))
            for code, seconds in await asyncio.gather(*calls):
                row.calls += 1
                refused.append(seconds)
                if code != "STORAGE_UNAVAILABLE":
                    row.forbidden[code] += 1
            noticed.append(await noticing)
            await ground.postgres.start()
            healed.append(await until(lambda: says(server, serving=True)))
            row.forbidden["not healed"] += not await services[0].is_well()
    row.times = {"UNAVAILABLE after": refused, "NOT_SERVING after": noticed, "healed after": healed}
    return row


async def rolling_restart(ground: Ground) -> Row:
    """Restart two servers, one after the other, under the load of the shipped client."""
    row = Row("a rolling restart with the shipped client", "each of 2 servers restarted 3 times")
    ended: list[float] = []
    changes: Counter[str] = Counter()
    async with cluster(ground, 2) as (services, _):
        address = "ipv4:" + ",".join(service.address for service in services)
        async with connect(address) as client:
            loading = asyncio.Event()
            load = [asyncio.create_task(_load(client, loading, row, changes)) for _ in range(10)]
            for service in [*services] * 3:
                await asyncio.sleep(PAUSE)
                began = time.monotonic()
                row.forbidden["exit codes"] += bool(await service.end())
                ended.append(time.monotonic() - began)
                await service.start()
            await asyncio.sleep(1)
            loading.set()
            await asyncio.gather(*load)
    row.injected += f" (changes that the client does not repeat: {dict(changes)})"
    row.times = {"a server ended after": ended}
    return row


async def all_at_once(ground: Ground) -> Row:
    """Start four migrators and four servers at once on an empty database."""
    row = Row("four migrators and four servers at once", "on an empty database, 3 times")
    took: list[float] = []
    for _ in range(3):
        name = f"empty_{uuid4().hex}"
        await ground.postgres.administer(f"CREATE DATABASE {name}")
        url = ground.postgres.url(name)
        services = [Service(ground.folder, url) for _ in range(4)]
        began = time.monotonic()
        starting = asyncio.gather(*(service.start() for service in services))
        codes = await asyncio.gather(*(_migrated(ground.folder, url) for _ in range(4)))
        await starting
        row.calls += 8
        row.forbidden["migrators that failed"] += sum(map(bool, codes))
        await until(partial(are_well, services))
        took.append(time.monotonic() - began)
        codes = await asyncio.gather(*(service.end() for service in services))
        row.forbidden["servers that failed"] += sum(map(bool, codes))
    row.times = {"all serve after": took}
    return row


async def sign_in_storm(ground: Ground) -> Row:
    """Sign users in without pause, and validate sessions beside that."""
    row = Row("a storm of sign-ins", f"{CALLERS} clients for {STORM:.0f} s, bcrypt of cost 12")
    times: dict[str, list[float]] = {"ValidateSession": [], "health": [], "refused": []}
    checked = 0
    env = {"TAMATAR_BCRYPT_COST": "12", "TAMATAR_HASH_QUEUE": "10"}
    async with cluster(ground, 1, **env) as (services, _), servers_of(services) as (server,):
        await server.users.CreateUser(ada(email_verified=True))
        token = (await server.sessions.CreateSession(sign_in())).session_token
        end = time.monotonic() + STORM

        async def sign_in_again_and_again() -> None:
            nonlocal checked
            while time.monotonic() < end:
                # An unknown address takes as long, and counts for no other account.
                stranger = sign_in(email=f"{uuid4()}@example.com")
                code, seconds = await timed(server.sessions.CreateSession(stranger, timeout=60))
                row.calls += 1
                if code == "SERVER_BUSY":
                    times["refused"].append(seconds)
                    await asyncio.sleep(0.1)
                elif code == "INVALID_CREDENTIALS":
                    checked += 1
                else:
                    row.forbidden[code] += 1

        async def ask(what: str, call: Callable[[], Awaitable[Any]]) -> None:
            while time.monotonic() < end:
                code, seconds = await timed(call())
                row.calls += 1
                times[what].append(seconds)
                if code != "OK":
                    row.forbidden[f"{what}: {code}"] += 1
                await asyncio.sleep(0.005)

        await asyncio.gather(
            *(sign_in_again_and_again() for _ in range(CALLERS)),
            ask("ValidateSession", lambda: validate(server.sessions, token)),
            ask("health", lambda: health(server)),
        )
    row.injected += f" ({checked / STORM:.1f} passwords a second)"
    row.times = dict(times)
    return row


async def right_passwords(ground: Ground) -> Row:
    """Sign one user in many times at once at two servers, with a hash that they replace."""
    at_once = 2 * WAITING
    row = Row(
        "the right password is never too many attempts",
        f"{at_once} sign-ins of one user at 2 servers, {ROUNDS} times",
    )
    async with cluster(ground, 2) as (services, _), servers_of(services) as servers:
        for number in range(ROUNDS):
            email = f"ada{number}@example.com"
            outdated = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
            user = PortableUser(email=email, password_hash=outdated, email_verified=True)
            async for _ in servers[0].users.ImportUsers(iter([ImportUsersRequest(users=[user])])):
                pass
            for wrong in range(number % (FREE_ATTEMPTS + 1)):
                request = sign_in(email=email, password=f"wrong {wrong}")
                await outcome(servers[wrong % 2].sessions.CreateSession(request))
            calls = [
                outcome(servers[each % 2].sessions.CreateSession(sign_in(email=email)))
                for each in range(at_once)
            ]
            outcomes = Counter(await asyncio.gather(*calls))
            row.calls += at_once
            row.forbidden["no sign-in"] += outcomes.pop("OK", 0) == 0
            outcomes.pop("SERVER_BUSY", 0)
            row.forbidden += outcomes
    return row


async def hostile_clients(ground: Ground) -> Row:
    """Attack a server while honest calls continue."""
    row = Row("hostile clients", ", ".join(ATTACKS))
    answered: list[float] = []
    most = 0
    async with cluster(ground, 1) as (services, _), servers_of(services) as (server,):
        await server.users.CreateUser(ada(email_verified=True))
        token = (await server.sessions.CreateSession(sign_in())).session_token
        for name, attack in ATTACKS.items():
            is_over = asyncio.Event()

            async def ask(name: str = name, is_over: asyncio.Event = is_over) -> None:
                while not is_over.is_set():
                    code, seconds = await timed(validate(server.sessions, token))
                    row.calls += 1
                    answered.append(seconds)
                    if code != "OK":
                        row.forbidden[f"{name}: {code}"] += 1

            async def measure(is_over: asyncio.Event = is_over) -> None:
                nonlocal most
                while not is_over.is_set():
                    most = max(most, services[0].memory)
                    await asyncio.sleep(0.02)

            asking = [asyncio.create_task(task) for task in (ask(), ask(), ask(), ask(), measure())]
            async with attack(services[0].address):
                await asyncio.sleep(1)
            is_over.set()
            await asyncio.gather(*asking)
        row.forbidden["memory above 400 MB"] += most > MEMORY
        await asyncio.sleep(MEMORY_HELD)
        row.forbidden["memory held"] += services[0].memory > MEMORY / 2 + 2**26
        row.injected += f" (at most {most >> 20} MB, then {services[0].memory >> 20} MB)"
    row.times = {"honest calls": answered}
    return row


PROMISES: Sequence[Callable[[Ground], Awaitable[Row]]] = (
    *(one_live_user, deadlines, database_gone, connections_lost, rolling_restart),
    *(all_at_once, sign_in_storm, right_passwords, hostile_clients),
)


async def tried(ground: Ground) -> bool:
    """Try each promise, report each in a line, and return whether all were kept."""
    print("\nand, each by itself:", flush=True)
    kept = True
    for promise in PROMISES:
        row = await promise(ground)
        row.forbidden = +row.forbidden
        print(row, flush=True)
        kept = kept and not row.forbidden
    return kept


async def _load(
    client: AuthClient, is_over: asyncio.Event, row: Row, changes: "Counter[str]"
) -> None:
    """Create a user, and read, sign in, validate and change until the end."""
    email = f"{uuid4()}@example.com"
    user = (await client.users.CreateUser(ada(email=email, email_verified=True))).user
    token = (await client.sessions.CreateSession(sign_in(email=email))).session_token
    change = UpdateUserRequest(user_id=user.user_id, first_name="Ada")
    change.update_mask.paths.append("first_name")
    repeated: dict[str, Callable[[], Awaitable[Any]]] = {
        "ValidateSession": lambda: validate(client.sessions, token),
        "GetUser": lambda: client.users.GetUser(GetUserRequest(user_id=user.user_id)),
        "CreateSession": lambda: client.sessions.CreateSession(sign_in(email=email)),
    }
    while not is_over.is_set():
        for name, call in repeated.items():
            row.calls += 1
            try:
                await call()
            except AuthError as error:
                row.forbidden[f"{name}: {error}"] += 1
        # Only the caller knows whether a change may be repeated.
        changes[await outcome(client.users.UpdateUser(change))] += 1


async def _migrated(folder: Path, url: str) -> int:
    process = await asyncio.create_subprocess_exec(
        *(COMMAND, "migrate", "up"),
        cwd=folder,
        env=environment({"TAMATAR_DATABASE_URL": url}),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    return await process.wait()
