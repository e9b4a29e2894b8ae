"""Shows that rejected sign-ins take the same time, whatever their cause: `make timing`.

The causes take turns in random order, so that other load on the machine affects all of them.
Prints the median of each cause and its ratio to that of a wrong password. The password of a
throttled attempt is not checked, so throttled attempts are compared with each other. Nothing is
asserted.
"""

import asyncio
import itertools
import logging
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
from sqlalchemy import delete, func, update

from tamatar.auth.v1.session_service_pb2 import CreateSessionRequest
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2 import (
    CreateUserRequest,
    DeactivateUserRequest,
    DeleteUserRequest,
)
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.config.settings import Settings
from tamatar_auth.embedded.postgres import EmbeddedPostgres
from tamatar_auth.migrator.migrations import Migrations
from tamatar_auth.observability.logs import configure_logs
from tamatar_auth.security import audit
from tamatar_auth.server.app import run_service
from tamatar_auth.server.lifecycle import RunningService
from tamatar_auth.storage.tables import password_attempts, users

ROUNDS = 40
PASSWORD = "correct horse battery"
LENGTHS = {"1 byte": "x", "73 bytes": "x" * 73, "1 KiB": "😀" * 256}
PASSWORD_CHECKED = (
    "wrong",
    "unknown",
    "deleted",
    "inactive",
    "no password",
    "corrupt hash",
    "older hash",
)
THROTTLED = ("throttled, known", "throttled, unknown")


async def main() -> None:
    """Measure and print."""
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedPostgres(
            Path(folder), report=report_progress, settings={"fsync": "off"}
        ) as postgres,
    ):
        Migrations(postgres.url()).upgrade()
        settings = Settings.load(
            env_file=None, listen="127.0.0.1:0", bcrypt_cost=10, log_level="error"
        )
        configure_logs(settings)
        logging.getLogger(audit.__name__).setLevel(logging.CRITICAL)  # thousands of events
        async with run_service(settings.with_database(postgres.url())) as service:
            await measure(service)


async def measure(service: RunningService) -> None:
    """Measure all causes in turns."""
    async with grpc.aio.insecure_channel(str(service.addresses[0])) as channel:
        await populate(service, UserServiceStub(channel))
        sign_in: Callable[[CreateSessionRequest], Awaitable[object]]
        sign_in = SessionServiceStub(channel).CreateSession
        every = itertools.product((*PASSWORD_CHECKED, *THROTTLED), LENGTHS)
        seconds: dict[tuple[str, str], list[float]] = {case: [] for case in every}
        for number in range(ROUNDS):
            report_progress(f"round {number + 1} of {ROUNDS}")
            cases = list(itertools.product((*PASSWORD_CHECKED, *THROTTLED), LENGTHS))
            random.Random(number).shuffle(cases)  # noqa: S311 - no secret
            for kind, length in cases:
                await throttle(service, blocked=kind in THROTTLED)
                request = CreateSessionRequest(email=address(kind), password=LENGTHS[length])
                if kind in THROTTLED:  # so that the blocking itself is not measured
                    await timed(sign_in, request)
                seconds[kind, length].append(await timed(sign_in, request))
    print_table({key: statistics.median(values) for key, values in seconds.items()})


async def populate(service: RunningService, stub: Any) -> None:
    """Create a user for each cause that needs one."""
    for kind in (*PASSWORD_CHECKED, "throttled, known"):
        if kind == "unknown":
            continue
        password = "" if kind == "no password" else PASSWORD
        created = await stub.CreateUser(CreateUserRequest(email=address(kind), password=password))
        user_id = created.user.user_id
        if kind == "deleted":
            await stub.DeleteUser(DeleteUserRequest(user_id=user_id))
        if kind == "inactive":
            await stub.DeactivateUser(DeactivateUserRequest(user_id=user_id))
        if kind == "corrupt hash":
            await store_hash(service, user_id, "corrupt")
        if kind == "older hash":
            await store_hash(service, user_id, "$2b$08$" + "a" * 21 + "e" + "." * 31)


async def store_hash(service: RunningService, user_id: str, password_hash: str) -> None:
    """Store a hash of a user."""
    async with service.database.transaction() as tx:
        statement = update(users).where(users.c.id == UUID(user_id))
        await tx.connection.execute(statement.values(password_hash=password_hash))


async def throttle(service: RunningService, *, blocked: bool) -> None:
    """Block the accounts of throttled attempts, or unblock all."""
    async with service.database.transaction() as tx:
        if not blocked:
            await tx.connection.execute(delete(password_attempts))
            return
    for kind in THROTTLED:
        await block(service, kind)


async def block(service: RunningService, kind: str) -> None:
    """Block an account, existing or not."""
    async with grpc.aio.insecure_channel(str(service.addresses[0])) as channel:
        stub = SessionServiceStub(channel)
        await timed(stub.CreateSession, CreateSessionRequest(email=address(kind), password="x"))
    async with service.database.transaction() as tx:
        until = func.now() + func.make_interval(0, 0, 0, 1)
        await tx.connection.execute(
            update(password_attempts).values(failures=50, blocked_until=until)
        )


async def timed(
    call: Callable[[CreateSessionRequest], Awaitable[object]], request: CreateSessionRequest
) -> float:
    """Make a call that must fail, and return its duration."""
    began = time.perf_counter()
    try:
        await call(request)
    except grpc.aio.AioRpcError:
        return time.perf_counter() - began
    raise AssertionError("the sign-in succeeded")


def print_table(medians: dict[tuple[str, str], float]) -> None:
    """Print medians and ratios."""
    print(f"{'refusal':<20}{'password':<12}{'median':>12}{'ratio':>8}")
    for (kind, length), median in medians.items():
        first = THROTTLED[0] if kind in THROTTLED else PASSWORD_CHECKED[0]
        ratio = median / medians[first, "1 byte"]
        print(f"{kind:<20}{length:<12}{median * 1000:>9.2f} ms{ratio:>8.2f}")


def address(kind: str) -> str:
    """Return the address of the user for a cause."""
    return kind.replace(" ", "-").replace(",", "") + "@example.com"


def report_progress(line: str) -> None:
    """Print the progress."""
    print(line, file=sys.stderr)


if __name__ == "__main__":
    asyncio.run(main())
