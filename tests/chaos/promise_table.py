"""Tools that try a promise by itself, and the row of its result."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from uuid import uuid4

import grpc
from grpc import StatusCode
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from tamatar.auth.v1.diagnostics_service_pb2 import GetDatabaseInfoRequest
from tamatar.auth.v1.diagnostics_service_pb2_grpc import DiagnosticsServiceStub
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2 import GetUserRequest
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tests.chaos.cluster import Postgres, Service
from tests.chaos.recording_client import RECONNECT
from tests.support.calls import read_refusal

SETTLED = 30.0
"""Seconds to wait for a condition."""


@dataclass
class Row:
    """The result of a promise."""

    promise: str
    injected: str
    calls: int = 0
    forbidden: Counter[str] = field(default_factory=Counter)
    """Forbidden events that happened, and their number."""
    times: dict[str, Sequence[float]] = field(default_factory=dict)

    def __str__(self) -> str:
        durations = "; ".join(
            f"{what} {_middle_and_most(times)}" for what, times in self.times.items()
        )
        wrong = f" {dict(self.forbidden)}" if self.forbidden else ""
        return (
            f"  {self.promise}: {self.injected}; {self.calls} calls,"
            f" forbidden {self.forbidden.total()}{wrong}" + (f"; {durations}" if durations else "")
        )


class Ground(NamedTuple):
    """The resources for trying a promise."""

    postgres: Postgres
    template: str
    folder: Path


class Server(NamedTuple):
    """The stubs of one server."""

    users: Any
    sessions: Any
    diagnostics: Any
    health: Any


@contextlib.asynccontextmanager
async def cluster(
    ground: Ground, count: int, **env: str
) -> AsyncIterator[tuple[Sequence[Service], str]]:
    """Run servers on a database of their own."""
    name = f"promise_{uuid4().hex}"
    await ground.postgres.administer(f"CREATE DATABASE {name} TEMPLATE {ground.template}")
    url = ground.postgres.url(name)
    services = [Service(ground.folder, url, **env) for _ in range(count)]
    await asyncio.gather(*(service.start() for service in services))
    try:
        yield services, url
    finally:
        await asyncio.gather(*(service.end() for service in services))


@contextlib.asynccontextmanager
async def servers_of(services: Sequence[Service]) -> AsyncIterator[Sequence[Server]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [
            _asked(
                await stack.enter_async_context(
                    grpc.aio.insecure_channel(service.address, options=RECONNECT)
                )
            )
            for service in services
        ]


async def outcome(call: Awaitable[Any]) -> str:
    """Return OK, the reason of a refusal, or its status if it has none."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return read_refusal(error).reason or error.code().name
    return "OK"


async def timed(call: Awaitable[Any]) -> tuple[str, float]:
    began = time.monotonic()
    return await outcome(call), time.monotonic() - began


async def until(condition: Callable[[], Awaitable[bool]]) -> float:
    """Wait for a condition, and return the seconds it took."""
    began = time.monotonic()
    while not await condition():
        if time.monotonic() - began > SETTLED:
            raise TimeoutError("it did not come")
        await asyncio.sleep(0.02)
    return time.monotonic() - began


async def are_well(services: Sequence[Service]) -> bool:
    return all(await asyncio.gather(*(service.is_well() for service in services)))


async def pool_is_free(server: Server) -> bool:
    try:
        answer = await server.diagnostics.GetDatabaseInfo(GetDatabaseInfoRequest(), timeout=5)
    except grpc.aio.AioRpcError:
        return False
    return bool(answer.pool.in_use <= 1)  # the connection of this call itself


def health(server: Server) -> Awaitable[Any]:
    answer: Awaitable[Any] = server.health.Check(health_pb2.HealthCheckRequest(), timeout=5)
    return answer


async def says(server: Server, *, serving: bool) -> bool:
    try:
        answer = await health(server)
    except grpc.aio.AioRpcError as error:
        return error.code() is StatusCode.NOT_FOUND
    return bool((answer.status == health_pb2.HealthCheckResponse.SERVING) == serving)


def unknown_user() -> GetUserRequest:
    return GetUserRequest(user_id=str(uuid4()))


def _middle_and_most(seconds: Sequence[float]) -> str:
    if not seconds:
        return "never"
    ordered = sorted(seconds)
    p99 = ordered[int(len(ordered) * 0.99)] if len(ordered) >= 100 else ordered[-1]
    return f"{median(seconds):.3f} s (p99 {p99:.3f}, most {ordered[-1]:.3f})"


def _asked(channel: grpc.aio.Channel) -> Server:
    return Server(
        UserServiceStub(channel),
        SessionServiceStub(channel),
        DiagnosticsServiceStub(channel),
        HealthStub(channel),
    )
