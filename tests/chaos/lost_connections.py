"""The promise about calls whose connections to the database are lost again and again."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from random import Random
from typing import Any
from uuid import uuid4

from tamatar.auth.v1.session_service_pb2 import (
    ListSessionsRequest,
    ValidateSessionRequest,
    WatchSessionsRequest,
)
from tamatar.auth.v1.user_service_pb2 import GetUserRequest, UpdateUserRequest
from tamatar_auth.client.call_defaults import defaults_for
from tests.chaos.cluster import Cluster, Service
from tests.chaos.faults import ABRUPT, FAULTS, Scene
from tests.chaos.faulty_wire import Wire
from tests.chaos.history import History
from tests.chaos.promise_table import Ground, Row, Server, says, servers_of, timed, until
from tests.chaos.shared_state import SharedState
from tests.support.calls import ada, sign_in

ROUNDS = 3
PROPER = {"OK", "INVALID_CREDENTIALS"}
TIMEOUT = defaults_for("/tamatar.auth.v1.SessionService/ValidateSession").timeout
HASHING_TIMEOUT = defaults_for("/tamatar.auth.v1.SessionService/CreateSession").timeout
CALLERS = 2
"""Callers that make the calls of a kind one after the other: no more than the pool has room for."""


async def connections_lost(ground: Ground) -> Row:
    """Lose connections in every abrupt way while calls have the deadlines of the client."""
    row = Row("connections are lost", f"{', '.join(sorted(ABRUPT))}; {ROUNDS} times each")
    times: dict[str, list[float]] = {"UNAVAILABLE after": [], "healed after": []}
    async with _scene(ground) as scene, servers_of(scene.cluster.services) as (server,):
        calls = await _calls(server)
        is_over = asyncio.Event()

        async def call_until_over(name: str, call: Callable[[], Awaitable[Any]]) -> None:
            while not is_over.is_set():
                code, seconds = await timed(call())
                row.calls += 1
                if code == "STORAGE_UNAVAILABLE":
                    times["UNAVAILABLE after"].append(seconds)
                    await asyncio.sleep(0.05)
                elif code not in PROPER:
                    row.forbidden[f"{name}: {code}"] += 1

        calling = [
            asyncio.create_task(call_until_over(name, call))
            for name, call in [*calls.items()] * CALLERS
        ]
        for fault in [*sorted(ABRUPT)] * ROUNDS:
            await FAULTS[fault](scene)
            began = time.monotonic()
            await until(lambda: says(server, serving=True))
            await until(scene.cluster.is_well)
            times["healed after"].append(time.monotonic() - began)
            await asyncio.sleep(scene.seconds(0, 1))
        is_over.set()
        await asyncio.gather(*calling)
    row.times = dict(times)
    return row


async def _calls(server: Server) -> Mapping[str, Callable[[], Awaitable[Any]]]:
    """Return a call of each kind."""
    user = (await server.users.CreateUser(ada(email_verified=True))).user
    token = (await server.sessions.CreateSession(sign_in())).session_token
    get = GetUserRequest(user_id=user.user_id)
    update = UpdateUserRequest(user_id=user.user_id, first_name="Ada")
    update.update_mask.paths.append("first_name")
    sessions = ListSessionsRequest(user_id=user.user_id)
    valid = ValidateSessionRequest(session_token=token)

    async def watch() -> None:
        stream = server.sessions.WatchSessions(WatchSessionsRequest(), timeout=TIMEOUT)
        await stream.read()
        stream.cancel()

    def sign_in_stranger() -> Awaitable[Any]:
        # The attempts of an unknown address delay no other sign-in.
        stranger = sign_in(email=f"{uuid4()}@example.com")
        answer: Awaitable[Any] = server.sessions.CreateSession(stranger, timeout=HASHING_TIMEOUT)
        return answer

    return {
        "ValidateSession": lambda: server.sessions.ValidateSession(valid, timeout=TIMEOUT),
        "GetUser": lambda: server.users.GetUser(get, timeout=TIMEOUT),
        "UpdateUser": lambda: server.users.UpdateUser(update, timeout=TIMEOUT),
        "ListSessions": lambda: server.sessions.ListSessions(sessions, timeout=TIMEOUT),
        "CreateSession": sign_in_stranger,
        "WatchSessions": watch,
    }


@contextlib.asynccontextmanager
async def _scene(ground: Ground) -> AsyncIterator[Scene]:
    """Run a server on a database of its own, behind a wire."""
    name = f"promise_{uuid4().hex}"
    await ground.postgres.administer(f"CREATE DATABASE {name} TEMPLATE {ground.template}")
    async with Wire.to(ground.postgres.url(name)) as wire:
        service = Service(ground.folder, wire.url)
        await service.start()
        history = History()
        cluster = Cluster(ground.postgres, name, [service], wire)
        try:
            yield Scene(cluster, SharedState(history), history, Random(uuid4().int))
        finally:
            await service.end()
