"""Measures guards: how late they refuse, and how much they save: `make guarding`.

Two processes of the service share a database; a guarded service (examples/guarded_service.py) is a
third process. Sessions are revoked by one process of the service, and guards hear of it from the
other. Nothing is asserted.
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
from benchmarks.loading import load
from benchmarks.machine import machine
from benchmarks.processes import PATIENCE, ROOT, started
from benchmarks.samples import BenchmarkError
from benchmarks.servers import Servers
from tamatar.auth.v1.session_service_pb2 import RevokeSessionRequest
from tamatar_auth import client
from tamatar_auth.client import aio
from tamatar_auth.client.guard_rules import Refused
from tamatar_auth.embedded.postgres import EmbeddedPostgres
from tamatar_auth.migrator.migrations import Migrations

BOUND = 1.0
"""Seconds after which no revoked session may be let in while a guard hears of the ends."""

CHECKS = 100_000
REVOCATIONS = 1_000
WATCHED = 300
"""How many revocations are watched one by one."""

ALONE = 20_000
"""How many checks are made with nothing else to do."""

CHECKERS = 16

WHO_AM_I = "/example.Shop/WhoAmI"


@dataclass(slots=True)
class Race:
    """What came of checks that race with revocations."""

    checks: int = 0
    refused: int = 0
    late: list[float] = field(default_factory=list)
    """Seconds since the revocation was answered, of each check that began after and was let in."""
    revived: int = 0
    """How many were let in by a guard that had refused them before."""

    @property
    def too_late(self) -> int:
        """How many were let in after the bound."""
        return sum(seconds > BOUND for seconds in self.late)


async def race(
    guards: Sequence[aio.SessionGuard],
    revoke: Callable[[str], Awaitable[object]],
    tokens: Sequence[str],
    checks: int,
) -> Race:
    """Check sessions by several guards while they are revoked one after the other."""
    outcome, revoked = Race(), dict[str, float]()
    refused: set[tuple[int, str]] = set()
    turns = asyncio.Semaphore(0)

    async def revoke_all() -> None:
        for each in tokens:
            # The checks set the pace, so that they meet each other from the first to the last.
            await turns.acquire()
            await revoke(each)
            revoked[each] = time.perf_counter()

    async def check_some() -> None:
        while outcome.checks < checks:
            outcome.checks += 1
            if outcome.checks % (checks // len(tokens)) == 0:
                turns.release()
            # Those that were just revoked, and those whose turn is next.
            at = len(revoked) + random.randint(-5, 15)  # noqa: S311 - no secret
            each = tokens[max(0, min(at, len(tokens) - 1))]
            guard = outcome.checks % len(guards)
            began, since = time.perf_counter(), revoked.get(each)
            was_refused = (guard, each) in refused
            try:
                await guards[guard].session(each)
            except Refused:
                outcome.refused += 1
                refused.add((guard, each))
            else:
                outcome.revived += was_refused
                if since is not None:
                    outcome.late.append(began - since)
            await asyncio.sleep(0)

    await asyncio.gather(revoke_all(), *(check_some() for _ in range(CHECKERS)))
    return outcome


def delays(who: Callable[[str], bool], revoke: Callable[[str], object]) -> list[float]:
    """Return the seconds from each revoking answer to the first refusal of a guarded service."""
    found = []
    for number in range(WATCHED):
        each = token(number)
        if not (who(each) and who(each)):
            raise BenchmarkError("a good session was refused")
        revoke(each)
        answered = time.perf_counter()
        while who(each):
            pass
        found.append(time.perf_counter() - answered)
    return found


@contextlib.contextmanager
def guarded_service(address: str, folder: Path) -> Iterator[Callable[[str], bool]]:
    """Run the example; yield what tells whether it lets a token in."""
    output = folder / "guarded"
    script = ROOT / "examples/guarded_service.py"
    with started([sys.executable, script, address, "127.0.0.1:0"], output=output) as process:
        until = time.monotonic() + PATIENCE
        while not output.read_text().endswith("\n"):
            if process.poll() is not None or time.monotonic() > until:
                raise BenchmarkError(f"the guarded service did not start: {output.read_text()}")
            time.sleep(0.01)
        with grpc.insecure_channel(f"127.0.0.1:{output.read_text().split()[-1]}") as channel:
            method: Callable[..., bytes] = channel.unary_unary(WHO_AM_I)

            def who(each: str) -> bool:
                try:
                    method(b"", metadata=(("authorization", f"Bearer {each}"),))
                except grpc.RpcError as error:
                    if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
                        raise
                    return False
                return True

            yield who


async def checks_a_second(address: str, each: str) -> dict[str, float]:
    """Measure checks by guards that have nothing else to do."""
    async with aio.connect(address) as auth:
        kept, asked = aio.SessionGuard(auth), aio.SessionGuard(auth, max_age=0)
        await _settle(kept, each)
        began = time.perf_counter()
        for _ in range(ALONE):
            await kept.session(each)
        cached = ALONE / (time.perf_counter() - began)
        began = time.perf_counter()
        for _ in range(ALONE // 10 // CHECKERS):
            await asyncio.gather(*(asked.session(each) for _ in range(CHECKERS)))
        uncached = ALONE // 10 / (time.perf_counter() - began)
        await kept.close()
    with client.connect(address) as blocking:
        guard = client.SessionGuard(blocking)
        guard.session(each)
        await asyncio.sleep(1)
        guard.session(each)
        began = time.perf_counter()
        for _ in range(ALONE):
            guard.session(each)
        threads = ALONE / (time.perf_counter() - began)
        guard.close()
    return {"asyncio": cached, "blocking": threads, f"asked, {CHECKERS} at once": uncached}


async def racing(one: str, other: str) -> Race:
    """Let checks by guards at both processes race with revocations at both."""
    async with aio.connect(one) as first, aio.connect(other) as second:
        guards = [aio.SessionGuard(first), aio.SessionGuard(second)]
        tokens = [token(number) for number in range(WATCHED, WATCHED + REVOCATIONS)]
        for guard in guards:
            await _settle(guard, tokens[-1])
        turns = iter(range(REVOCATIONS))

        async def revoke(each: str) -> None:
            sessions = (first, second)[next(turns) % 2].sessions
            await sessions.RevokeSession(RevokeSessionRequest(session_token=each))

        outcome = await race(guards, revoke, tokens, CHECKS)
        for guard in guards:
            await guard.close()
    return outcome


async def _settle(guard: aio.SessionGuard, each: str) -> None:
    """Wait until a guard hears of the ends."""
    await guard.session(each)
    await asyncio.sleep(1)
    await guard.session(each)


def main() -> None:
    """Measure and print."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    with tempfile.TemporaryDirectory(prefix="tamatar-guarding-") as name:
        folder = Path(name)
        with EmbeddedPostgres(folder / "postgres") as postgres:
            Migrations(postgres.url()).upgrade()
            sessions = WATCHED + REVOCATIONS + 1
            say = lambda _line: None  # noqa: E731 - nobody wants to know
            load(postgres.url(), users=sessions, sessions=sessions, password_hash="", say=say)
            servers = Servers(folder)
            with servers.real(postgres.url()) as one, servers.real(postgres.url()) as other:
                print(machine(postgres.url()), end=".\n\n")
                _measure(one.address, other.address, folder)


def _measure(one: str, other: str, folder: Path) -> None:
    with client.connect(one) as auth, guarded_service(other, folder) as who:
        who(token(0))
        time.sleep(1)
        found = delays(
            who, lambda each: auth.sessions.RevokeSession(RevokeSessionRequest(session_token=each))
        )
    print(
        f"From the revoking answer to the refusal of the guarded service, {WATCHED} times:"
        f" median {statistics.median(found) * 1000:.1f} ms, maximum {max(found) * 1000:.1f} ms"
    )
    for kind, rate in asyncio.run(checks_a_second(other, token(WATCHED + REVOCATIONS))).items():
        print(f"Checks a second, {kind}: {rate:,.0f}")
    outcome = asyncio.run(racing(one, other))
    print(
        f"{outcome.checks:,} checks with {REVOCATIONS:,} revocations among them:"
        f" {outcome.refused:,} refused, {len(outcome.late)} let in after the answer,"
        f" the last of them {max(outcome.late, default=0) * 1000:.1f} ms after it,"
        f" {outcome.too_late} after {BOUND:g} s, {outcome.revived} after a refusal"
    )


if __name__ == "__main__":
    main()
