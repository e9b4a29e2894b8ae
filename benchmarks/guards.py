"""Measures how late guards reject revoked sessions, and how many calls they save: `make guarding`.

Two processes of the service share a database. A guarded service (examples/guarded_service.py) is
a third process. One process of the service revokes sessions, and the other one notifies the
guards. Nothing is asserted.
"""

import asyncio
import contextlib
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from benchmarks.calls import token
from benchmarks.machine import describe_machine
from benchmarks.processes import PROCESS_TIMEOUT, ROOT, running_process
from benchmarks.sample_data import load_users
from benchmarks.samples import BenchmarkError
from benchmarks.servers import Servers
from tamatar.auth.v1.session_service_pb2 import RevokeSessionRequest
from tamatar_auth import client
from tamatar_auth.client import aio
from tamatar_auth.client.guard_rules import CallRejected
from tamatar_auth.embedded.postgres import EmbeddedPostgres
from tamatar_auth.migrator.migrations import Migrations

MAX_LATE_SECONDS = 1.0
"""Seconds after which a guard with a live stream must reject a revoked session."""

CHECKS = 100_000
REVOCATIONS = 1_000
PROBES = 300
"""Revocations that are timed one by one."""

IDLE_CHECKS = 20_000
"""Checks that are made with nothing else to do."""

CHECKERS = 16

WHO_AM_I = "/example.Shop/WhoAmI"


@dataclass(slots=True)
class RaceOutcome:
    """The results of checks that race with revocations."""

    checks: int = 0
    refused: int = 0
    late: list[float] = field(default_factory=list)
    """For each check admitted after the answer to the revocation: seconds since that answer."""
    revived: int = 0
    """Checks admitted by a guard that had rejected the session before."""

    @property
    def too_late(self) -> int:
        """Checks admitted after the bound."""
        return sum(seconds > MAX_LATE_SECONDS for seconds in self.late)


async def race(
    guards: Sequence[aio.SessionGuard],
    revoke: Callable[[str], Awaitable[object]],
    tokens: Sequence[str],
    checks: int,
) -> RaceOutcome:
    """Check sessions with several guards while they are revoked one by one."""
    outcome, revoked = RaceOutcome(), dict[str, float]()
    refused: set[tuple[int, str]] = set()
    permits = asyncio.Semaphore(0)

    async def revoke_all() -> None:
        for session_token in tokens:
            # Checks pace the revocations, so that both last equally long.
            await permits.acquire()
            await revoke(session_token)
            revoked[session_token] = time.perf_counter()

    async def check_some() -> None:
        while outcome.checks < checks:
            outcome.checks += 1
            if outcome.checks % (checks // len(tokens)) == 0:
                permits.release()
            # Cached checks are quick. On a busy machine all would run before a revocation.
            while outcome.checks // (checks // len(tokens)) > len(revoked) + 2:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            # Sessions that were just revoked, and the next ones.
            at = len(revoked) + random.randint(-5, 15)  # noqa: S311 - no secret
            session_token = tokens[max(0, min(at, len(tokens) - 1))]
            guard = outcome.checks % len(guards)
            began, since = time.perf_counter(), revoked.get(session_token)
            was_refused = (guard, session_token) in refused
            try:
                await guards[guard].session(session_token)
            except CallRejected:
                outcome.refused += 1
                refused.add((guard, session_token))
            else:
                outcome.revived += was_refused
                if since is not None:
                    outcome.late.append(began - since)
            await asyncio.sleep(0)

    await asyncio.gather(revoke_all(), *(check_some() for _ in range(CHECKERS)))
    return outcome


def delays(is_admitted: Callable[[str], bool], revoke: Callable[[str], object]) -> list[float]:
    """Return the seconds from the answer of each revocation to the first rejection."""
    seconds = []
    for number in range(PROBES):
        session_token = token(number)
        if not (is_admitted(session_token) and is_admitted(session_token)):
            raise BenchmarkError("a valid session was rejected")
        revoke(session_token)
        answered = time.perf_counter()
        while is_admitted(session_token):
            pass
        seconds.append(time.perf_counter() - answered)
    return seconds


@contextlib.contextmanager
def guarded_service(address: str, folder: Path) -> Iterator[Callable[[str], bool]]:
    """Run the example, and yield a function that returns whether it admits a token."""
    output = folder / "guarded"
    script = ROOT / "examples/guarded_service.py"
    with running_process(
        [sys.executable, script, address, "127.0.0.1:0"], output=output
    ) as process:
        until = time.monotonic() + PROCESS_TIMEOUT
        while not output.read_text().endswith("\n"):
            if process.poll() is not None or time.monotonic() > until:
                raise BenchmarkError(f"the guarded service did not start: {output.read_text()}")
            time.sleep(0.01)
        with grpc.insecure_channel(f"127.0.0.1:{output.read_text().split()[-1]}") as channel:
            method: Callable[..., bytes] = channel.unary_unary(WHO_AM_I)

            def is_admitted(session_token: str) -> bool:
                try:
                    method(b"", metadata=(("authorization", f"Bearer {session_token}"),))
                except grpc.RpcError as error:
                    if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
                        raise
                    return False
                return True

            yield is_admitted


async def checks_a_second(address: str, session_token: str) -> dict[str, float]:
    """Measure checks of guards that have nothing else to do."""
    async with aio.connect(address) as auth:
        kept, asked = aio.SessionGuard(auth), aio.SessionGuard(auth, max_age=0)
        await _settle(kept, session_token)
        began = time.perf_counter()
        for _ in range(IDLE_CHECKS):
            await kept.session(session_token)
        cached = IDLE_CHECKS / (time.perf_counter() - began)
        began = time.perf_counter()
        for _ in range(IDLE_CHECKS // 10 // CHECKERS):
            await asyncio.gather(*(asked.session(session_token) for _ in range(CHECKERS)))
        uncached = IDLE_CHECKS // 10 / (time.perf_counter() - began)
        await kept.close()
    with client.connect(address) as blocking:
        guard = client.SessionGuard(blocking)
        guard.session(session_token)
        await asyncio.sleep(1)
        guard.session(session_token)
        began = time.perf_counter()
        for _ in range(IDLE_CHECKS):
            guard.session(session_token)
        threads = IDLE_CHECKS / (time.perf_counter() - began)
        guard.close()
    return {"asyncio": cached, "blocking": threads, f"asked, {CHECKERS} at once": uncached}


async def racing(one: str, other: str) -> RaceOutcome:
    """Check and revoke sessions through both processes at the same time."""
    async with aio.connect(one) as first, aio.connect(other) as second:
        guards = [aio.SessionGuard(first), aio.SessionGuard(second)]
        tokens = [token(number) for number in range(PROBES, PROBES + REVOCATIONS)]
        for guard in guards:
            await _settle(guard, tokens[-1])
        numbers = iter(range(REVOCATIONS))

        async def revoke(session_token: str) -> None:
            sessions = (first, second)[next(numbers) % 2].sessions
            await sessions.RevokeSession(RevokeSessionRequest(session_token=session_token))

        outcome = await race(guards, revoke, tokens, CHECKS)
        for guard in guards:
            await guard.close()
    return outcome


async def _settle(guard: aio.SessionGuard, session_token: str) -> None:
    """Wait until the stream of a guard is live."""
    await guard.session(session_token)
    await asyncio.sleep(1)
    await guard.session(session_token)


def main() -> None:
    """Measure and print."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    with tempfile.TemporaryDirectory(prefix="tamatar-guarding-") as name:
        folder = Path(name)
        with EmbeddedPostgres(folder / "postgres") as postgres:
            Migrations(postgres.url()).upgrade()
            sessions = PROBES + REVOCATIONS + 1
            report_progress = lambda _line: None  # noqa: E731 - too short for a function
            load_users(
                postgres.url(),
                users=sessions,
                sessions=sessions,
                password_hash="",
                report_progress=report_progress,
            )
            servers = Servers(folder)
            with servers.real(postgres.url()) as one, servers.real(postgres.url()) as other:
                print(describe_machine(postgres.url()), end=".\n\n")
                _measure(one.address, other.address, folder)


def _measure(one: str, other: str, folder: Path) -> None:
    with client.connect(one) as auth, guarded_service(other, folder) as is_admitted:
        is_admitted(token(0))
        time.sleep(1)
        seconds = delays(
            is_admitted,
            lambda session_token: auth.sessions.RevokeSession(
                RevokeSessionRequest(session_token=session_token)
            ),
        )
    print(
        f"From the answer of the revocation to the rejection by the service, {PROBES} times:"
        f" median {statistics.median(seconds) * 1000:.1f} ms, maximum {max(seconds) * 1000:.1f} ms"
    )
    for kind, rate in asyncio.run(checks_a_second(other, token(PROBES + REVOCATIONS))).items():
        print(f"Checks a second, {kind}: {rate:,.0f}")
    outcome = asyncio.run(racing(one, other))
    print(
        f"{outcome.checks:,} checks with {REVOCATIONS:,} revocations among them:"
        f" {outcome.refused:,} rejected, {len(outcome.late)} admitted after the answer,"
        f" the last of them {max(outcome.late, default=0) * 1000:.1f} ms after it,"
        f" {outcome.too_late} after {MAX_LATE_SECONDS:g} s, {outcome.revived} after a rejection"
    )


if __name__ == "__main__":
    main()
