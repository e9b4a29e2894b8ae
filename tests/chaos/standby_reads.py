"""Sessions that are revoked and then validated, while standbys are read and fail.

python -m tests.chaos.standby_reads --pairs 50000
"""

import argparse
import asyncio
import contextlib
import logging
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import structlog
from grpc import StatusCode
from pydantic import SecretStr

from tamatar.auth.v1.session_service_pb2 import RevokeSessionRequest
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.config.settings import Settings
from tamatar_auth.server.app import run_service
from tamatar_auth.server.lifecycle import RunningService
from tamatar_auth.storage.session_validation import standby_reader
from tests.chaos.replication import Pair, ask
from tests.support.calls import ada, sign_in, validate

CLIENTS = 8
DEADLINE = 10.0
RETRIED = {StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.ABORTED}

SYNCHRONOUS_COMMITS = ("off", "local", "remote_write", "on", "remote_apply")
"""The values of synchronous_commit."""

LOSSLESS = ("remote_write", "on", "remote_apply")
"""The values with which a failover after a crash of PostgreSQL loses no commit."""

Fault = Callable[[Pair], AbstractContextManager[None]]


@dataclass
class Report:
    """The results of a run."""

    pairs: int = 0
    stale: list[str] = field(default_factory=list)
    """Answers that were older than an acknowledged write."""
    unanswered: int = 0
    """Writes and validations that were repeated, because they failed."""
    validations: Counter[str] = field(default_factory=Counter)
    """Where validations were read: on a standby, or why on the primary."""

    def add(self, other: "Report") -> None:
        """Add the results of another run."""
        self.pairs += other.pairs
        self.stale += other.stale
        self.unanswered += other.unanswered
        self.validations += other.validations

    def __str__(self) -> str:
        return (
            f"{self.pairs} sessions revoked and validated, {len(self.stale)} stale,"
            f" {self.unanswered} calls repeated, read: {dict(self.validations)}"
        )


async def run(
    pair: Pair,
    settings: Settings,
    *,
    pairs: int,
    commits: Sequence[str] = SYNCHRONOUS_COMMITS,
    faults: Sequence[str] | None = None,
    show: Callable[[str], None] = lambda _: None,
) -> Report:
    """Revoke and validate sessions with each value of synchronous_commit under each fault."""
    names = [*FAULTS] if faults is None else faults
    turns = [
        (commit, name)
        for commit in commits
        for name in names
        if name != "failover" or commit in LOSSLESS
    ]
    total = Report()
    for commit in commits:
        async with run_service(reading_standbys(settings, pair, commit)) as service:
            for name in [name for each, name in turns if each == commit]:
                report = await _revoke_under(pair, service, name, -(-pairs // len(turns)))
                show(f"{commit:>12} {name:>8}: {report}")
                total.add(report)
    return total


def reading_standbys(settings: Settings, pair: Pair, commit: str = "on") -> Settings:
    """Return settings of a service that validates on the standby of a pair."""
    options = f"options=-csynchronous_commit%3D{commit}"
    url = pair.url.replace("target_session_attrs=read-write", options)
    database = settings.database.model_copy(
        update={
            "url": SecretStr(f"{pair.url}&{options}"),
            "standby_url": SecretStr(url),
            # A busy machine must not make the primary look replaced.
            "primary_acknowledged_within": timedelta(minutes=10),
        }
    )
    return settings.model_copy(update={"database": database})


async def _revoke_under(pair: Pair, service: RunningService, name: str, pairs: int) -> Report:
    standbys = service.components.standbys
    assert standbys is not None
    before, report = standbys.validations.copy(), Report()
    async with grpc.aio.insecure_channel(str(service.addresses[0])) as channel:
        with again_and_again(FAULTS[name], pair):
            left = iter(range(pairs))
            clients = [_Client(channel, report).work(left) for _ in range(CLIENTS)]
            await asyncio.gather(*clients)
    report.validations = standbys.validations - before
    return report


class _Client:
    """A client with a user of its own, who has one session at a time."""

    def __init__(self, channel: grpc.aio.Channel, report: Report) -> None:
        self._users, self._sessions = UserServiceStub(channel), SessionServiceStub(channel)
        self._report = report
        self._email = f"{uuid4()}@example.com"

    async def work(self, turns: Iterator[int]) -> None:
        key = str(uuid4())
        user = ada(email=self._email, request_id=key, email_verified=True)
        await self._repeat(self._users.CreateUser, user)
        for _ in turns:
            started = await self._repeat(self._sessions.CreateSession, sign_in(email=self._email))
            await self._expect(started.session_token, StatusCode.OK)
            request = RevokeSessionRequest(session_id=started.session.session_id)
            await self._repeat(self._sessions.RevokeSession, request)
            await self._expect(started.session_token, StatusCode.UNAUTHENTICATED)
            self._report.pairs += 1

    async def _expect(self, token: str, expected: StatusCode) -> None:
        found = StatusCode.UNAVAILABLE
        while found in RETRIED:
            try:
                await validate(self._sessions, token)
            except grpc.aio.AioRpcError as error:
                found = error.code()
                self._report.unanswered += found in RETRIED
            else:
                found = StatusCode.OK
        if found is not expected:
            self._report.stale.append(f"{found.name}, not {expected.name}")

    async def _repeat(self, call: Any, request: Any) -> Any:
        while True:
            try:
                return await call(request, timeout=DEADLINE)
            except grpc.aio.AioRpcError as error:
                if error.code() not in RETRIED:
                    raise
                self._report.unanswered += 1
                await asyncio.sleep(0.05)


@contextlib.contextmanager
def calm(_pair: Pair) -> Iterator[None]:
    """Nothing fails."""
    yield


@contextlib.contextmanager
def delayed(pair: Pair, delay: str = "20ms") -> Iterator[None]:
    """The standby replays each commit a little later."""
    _delay(pair, delay)
    yield
    _delay(pair, "0")


@contextlib.contextmanager
def late(pair: Pair) -> Iterator[None]:
    """The standby replays each commit much later than a validation waits."""
    with waiting_for_nobody(pair), delayed(pair, "3s"):
        yield


@contextlib.contextmanager
def paused(pair: Pair) -> Iterator[None]:
    """The standby replays nothing."""
    with waiting_for_nobody(pair):
        ask(pair.standby, "SELECT pg_wal_replay_pause()")
        yield
        ask(pair.standby, "SELECT pg_wal_replay_resume()")


@contextlib.contextmanager
def frozen(pair: Pair) -> Iterator[None]:
    """The standby answers nothing."""
    with waiting_for_nobody(pair), pair.frozen_standby():
        yield


@contextlib.contextmanager
def killed(pair: Pair) -> Iterator[None]:
    """The standby is gone."""
    with waiting_for_nobody(pair):
        pair.standby.kill()
        yield
        pair.standby.start()


@contextlib.contextmanager
def failover(pair: Pair) -> Iterator[None]:
    """The standby is promoted, and the former primary becomes its standby later."""
    pair.fail_over()
    yield
    pair.restore()


FAULTS: dict[str, Fault] = {
    "calm": calm,
    "delayed": delayed,
    "late": late,
    "paused": paused,
    "frozen": frozen,
    "killed": killed,
    "failover": failover,
}


@contextlib.contextmanager
def again_and_again(fault: Fault, pair: Pair) -> Iterator[None]:
    """Let something fail for a moment, again and again while the block runs."""
    stopping = threading.Event()

    def repeat() -> None:
        while not stopping.is_set():
            with fault(pair):
                stopping.wait(0.7)
            stopping.wait(1.5)

    with ThreadPoolExecutor(1) as thread:
        repeating = thread.submit(repeat)
        yield
        stopping.set()
        repeating.result()


@contextlib.contextmanager
def waiting_for_nobody(pair: Pair) -> Iterator[None]:
    """Acknowledge commits that the standby does not have yet."""
    pair.stop_waiting()
    yield
    pair.start_waiting()


def _delay(pair: Pair, delay: str) -> None:
    ask(pair.standby, f"ALTER SYSTEM SET recovery_min_apply_delay = '{delay}'")
    ask(pair.standby, "SELECT pg_reload_conf()")


async def main() -> int:
    """Run with the arguments of the command line, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=50_000)
    parser.add_argument("--commits", nargs="*", default=SYNCHRONOUS_COMMITS)
    parser.add_argument("--faults", nargs="*", default=[*FAULTS])
    parser.add_argument(
        "--timeout", type=float, default=1.0, help="seconds of a standby; 0.15 is the server's"
    )
    given = parser.parse_args()
    standby_reader.STANDBY_TIMEOUT = given.timeout
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    settings = Settings.load(env_file=None, listen="127.0.0.1:0", bcrypt_cost=4, hash_queue=250)
    with tempfile.TemporaryDirectory() as folder, Pair(Path(folder)) as pair:
        report = await run(
            pair,
            settings,
            pairs=given.pairs,
            commits=given.commits,
            faults=given.faults,
            show=lambda line: print(line, flush=True),
        )
    print(report)
    return 1 if report.stale or not report.validations["standby"] else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
