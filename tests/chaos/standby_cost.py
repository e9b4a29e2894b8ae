"""The CPU time of a primary and its standby for validations, by the server that is read.

python -m tests.chaos.standby_cost
"""

import asyncio
import logging
import resource
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import structlog

from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.config.settings import Settings
from tamatar_auth.embedded.postgres import EmbeddedPostgres
from tamatar_auth.server.app import run_service
from tamatar_auth.storage.session_validation import standby_reader
from tests.chaos.replication import Pair, ask
from tests.chaos.standby_reads import RETRIED, reading_standbys
from tests.support.calls import ada, sign_in, validate
from tests.support.waiting import eventually

SESSIONS = 50
CALLS = 3000
IN_FLIGHT = (1, 32, 256)


def cpu_seconds(server: EmbeddedPostgres) -> float:
    """Return the CPU time of the connections of a server that are open."""
    pids = ask(
        server,
        "SELECT string_agg(pid::text, ' ') FROM pg_stat_activity"
        " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()",
    )
    # In a namespace of users, not of processes, so the ids are those of this machine.
    times = [Path(f"/proc/{pid}/schedstat").read_text() for pid in (pids or "").split()]
    return sum(int(time.split()[0]) for time in times) / 1e9


async def measure(pair: Pair, settings: Settings, name: str) -> None:
    """Print the costs of a validation with some numbers of calls in flight."""
    async with (
        run_service(settings) as service,
        grpc.aio.insecure_channel(str(service.addresses[0])) as channel,
    ):
        users, sessions = UserServiceStub(channel), SessionServiceStub(channel)
        tokens = []
        for number in range(SESSIONS):
            user = ada(
                email=f"{number}-{name}@example.com", request_id=str(uuid4()), email_verified=True
            )
            await patiently(lambda: users.CreateUser(user))  # noqa: B023 - at once
            started = await patiently(lambda: sessions.CreateSession(sign_in(email=user.email)))  # noqa: B023
            tokens.append(started.session_token)
        standbys = service.components.standbys
        if standbys is not None:
            await eventually(lambda: standbys.problem is None)
        for in_flight in IN_FLIGHT:
            await _validate(sessions, tokens, in_flight, CALLS // 10)
            before, own = _costs(pair), resource.getrusage(resource.RUSAGE_SELF)
            await _validate(sessions, tokens, in_flight, CALLS)
            primary, standby = (
                (now - then) / CALLS * 1e6 for now, then in zip(_costs(pair), before, strict=True)
            )
            ours = resource.getrusage(resource.RUSAGE_SELF)
            client = (ours.ru_utime + ours.ru_stime - own.ru_utime - own.ru_stime) / CALLS * 1e6
            read = "" if standbys is None else dict(standbys.validations)
            print(
                f"{name:>8} {in_flight:>4} in flight: primary {primary:6.1f} µs, standby"
                f" {standby:6.1f} µs, service and client {client:6.1f} µs {read}",
                flush=True,
            )


def _costs(pair: Pair) -> tuple[float, float]:
    return cpu_seconds(pair.primary), cpu_seconds(pair.standby)


async def _validate(
    sessions: SessionServiceStub, tokens: list[str], width: int, calls: int
) -> None:
    left = iter(range(calls))

    async def client() -> None:
        for number in left:
            await patiently(lambda: validate(sessions, tokens[number % len(tokens)]))  # noqa: B023

    await asyncio.gather(*(client() for _ in range(width)))


async def patiently(call: Callable[[], Awaitable[Any]]) -> Any:
    """Repeat a call that a busy machine has delayed for too long."""
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            if error.code() not in RETRIED:
                raise


async def main() -> int:
    """Measure with and without reads from the standby."""
    standby_reader.STANDBY_TIMEOUT = 30.0  # a busy machine must not change the server
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    settings = Settings.load(env_file=None, listen="127.0.0.1:0", bcrypt_cost=4, hash_queue=250)
    with tempfile.TemporaryDirectory() as folder, Pair(Path(folder)) as pair:
        await measure(pair, settings.with_database(pair.url), "primary")
        await measure(pair, reading_standbys(settings, pair), "standby")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
