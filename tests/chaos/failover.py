"""Clients that write through failovers, and a comparison with the final rows.

A write is acknowledged, refused, or of unknown outcome: UNAVAILABLE or no answer at all. An
acknowledged write must be there, a refused one must not, and an unknown one must be there as a
whole or not at all.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import psycopg
from grpc import StatusCode

from tamatar.auth.v1 import session_service_pb2 as session_pb
from tamatar.auth.v1 import user_service_pb2 as user_pb
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tests.chaos.replication import Pair
from tests.support.calls import ada, sign_in, validate
from tests.support.commands import IMPATIENT, serving

DEADLINE = 3.0
UNKNOWN = {StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.CANCELLED}
CLIENTS = 6


@dataclass
class Account:
    """A client's knowledge of one user: possible values, the last known one first."""

    email: str
    request_id: str
    user_id: str = ""
    names: list[str] = field(default_factory=lambda: ["Ada"])
    tokens: dict[str, str] = field(default_factory=dict)
    revoked: dict[str, set[bool]] = field(default_factory=dict)
    deleted: set[bool] = field(default_factory=lambda: {False})


@dataclass
class Report:
    """The results of a run."""

    acknowledged: int = 0
    unknown: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    """Writes that are lost, half done, or done although refused; and stale reads."""
    gaps: list[float] = field(default_factory=list)
    """Seconds from each kill to the first write that began after it and was acknowledged."""

    def __str__(self) -> str:
        gaps = ", ".join(f"{gap:.2f}" for gap in self.gaps)
        return (
            f"{self.acknowledged} writes acknowledged, {len(self.wrong)} lost or wrong,"
            f" {self.unknown} of unknown outcome, refused: {dict(self.refused)};"
            f" seconds until the next write after each failover: {gaps}"
        )


class Clients:
    """Clients of one server, each with one user at a time."""

    def __init__(self, channel: grpc.aio.Channel, seed: int) -> None:
        self.report = Report()
        self.accounts: list[Account] = []
        self._users, self._sessions = UserServiceStub(channel), SessionServiceStub(channel)
        self._random = random.Random(seed)
        self._acknowledged_from: list[float] = []
        self._stopping = asyncio.Event()
        self._tasks = [asyncio.create_task(self._work(number)) for number in range(CLIENTS)]

    async def stop(self) -> None:
        """Stop each client after its current call."""
        self._stopping.set()
        await asyncio.gather(*self._tasks)

    async def acknowledged_after(self, moment: float, count: int = 1) -> None:
        """Wait until writes that began after a moment were acknowledged."""
        while sum(began > moment for began in self._acknowledged_from) < count:
            for task in self._tasks:
                if task.done():
                    task.result()
            await asyncio.sleep(0.01)

    async def _work(self, number: int) -> None:
        count = 0
        while not self._stopping.is_set():
            count += 1
            key = UUID(int=self._random.getrandbits(128), version=4)
            account = Account(f"{number}-{count}-{key.hex[:8]}@example.com", str(key))
            self.accounts.append(account)
            await self._create(account)
            for _ in range(self._random.randint(2, 8)):
                if self._stopping.is_set() or account.user_id == "":
                    break
                await self._random.choice([self._rename, self._start, self._end, self._check])(
                    account
                )
            if account.user_id and self._random.random() < 0.3:
                await self._delete(account)

    async def _create(self, account: Account) -> None:
        # A client repeats the request id until it gets an answer.
        while not account.user_id and not self._stopping.is_set():
            request = ada(email=account.email, request_id=account.request_id, email_verified=True)
            answer = await self._call(self._users.CreateUser, request)
            if isinstance(answer, StatusCode):
                await asyncio.sleep(0.05)
            else:
                account.user_id = answer.user.user_id

    async def _rename(self, account: Account) -> None:
        name = f"Ada {len(account.names)} {self._random.randrange(1000)}"
        request = user_pb.UpdateUserRequest(user_id=account.user_id)
        request.first_name = name
        request.update_mask.paths.append("first_name")
        answer = await self._call(self._users.UpdateUser, request)
        if not isinstance(answer, StatusCode):
            account.names = [name]
        elif answer in UNKNOWN:
            account.names.append(name)

    async def _start(self, account: Account) -> None:
        answer = await self._call(self._sessions.CreateSession, sign_in(email=account.email))
        if not isinstance(answer, StatusCode):
            account.tokens[answer.session.session_id] = answer.session_token
            account.revoked[answer.session.session_id] = {False}

    async def _end(self, account: Account) -> None:
        live = [key for key, revoked in account.revoked.items() if revoked == {False}]
        if not live:
            return
        key = self._random.choice(live)
        request = session_pb.RevokeSessionRequest(session_id=key)
        answer = await self._call(self._sessions.RevokeSession, request)
        if not isinstance(answer, StatusCode):
            account.revoked[key] = {True}
        elif answer in UNKNOWN:
            account.revoked[key] = {True, False}

    async def _delete(self, account: Account) -> None:
        request = user_pb.DeleteUserRequest(user_id=account.user_id, deleted_by="a client")
        answer = await self._call(self._users.DeleteUser, request)
        if not isinstance(answer, StatusCode):
            account.deleted = {True}
        elif answer in UNKNOWN:
            account.deleted = {True, False}

    async def _check(self, account: Account) -> None:
        """Read a session with a known state, and compare."""
        known = [key for key, revoked in account.revoked.items() if len(revoked) == 1]
        if not known:
            return
        key = self._random.choice(known)
        try:
            await validate(self._sessions, account.tokens[key])
        except grpc.aio.AioRpcError as error:
            code = error.code()
            if code in UNKNOWN:
                return
            found = True
        else:
            code, found = StatusCode.OK, False
        if account.revoked[key] != {found}:
            self.report.wrong.append(f"a session that is {account.revoked[key]}: {code}")

    async def _call(self, call: Callable[..., Awaitable[Any]], request: Any) -> Any | StatusCode:
        """Return the response, or the status of a refusal."""
        began = time.monotonic()
        try:
            answer = await call(request, timeout=DEADLINE)
        except grpc.aio.AioRpcError as error:
            if error.code() in UNKNOWN:
                self.report.unknown += 1
                await asyncio.sleep(0.02)
            else:
                self.report.refused[error.code().name] += 1
            return error.code()
        self.report.acknowledged += 1
        self._acknowledged_from.append(began)
        return answer


async def run(
    folder: Path, *, seed: int, failovers: int, writes: int, silent: bool = False
) -> Report:
    """Write through failovers, with a number of writes between two; then compare.

    The primary is killed, or falls silent: its connections stay open and it answers nothing.
    """
    with (
        Pair(folder) as pair,
        serving(limits=IMPATIENT, cwd=folder, TAMATAR_DATABASE_URL=pair.url) as server,
    ):
        (address,) = server.addresses
        async with grpc.aio.insecure_channel(address) as channel:
            clients = Clients(channel, seed)
            pause = random.Random(seed)
            for number in range(failovers):
                if number:
                    await asyncio.to_thread(pair.restore)
                await clients.acknowledged_after(time.monotonic(), writes)
                if number % 2:
                    # The standby would lack writes that were acknowledged without it.
                    await asyncio.to_thread(pair.part)
                await asyncio.sleep(pause.uniform(0, 0.2))
                killed = time.monotonic()
                await asyncio.to_thread(pair.fall_silent if silent else pair.fail_over)
                await clients.acknowledged_after(killed)
                clients.report.gaps.append(time.monotonic() - killed)
            await clients.acknowledged_after(time.monotonic(), writes)
            await clients.stop()
        clients.report.wrong += differences(pair.primary.url(), clients.accounts)
        assert server.process.poll() is None
    return clients.report


def differences(url: str, accounts: Sequence[Account]) -> list[str]:
    """Return rows that are there and should not be, and rows that are missing."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT email, id::text, first_name, deleted_at IS NOT NULL, user_id IS NOT NULL"
            " FROM users LEFT JOIN user_profiles ON user_id = id"
        ).fetchall()
        query = "SELECT id::text, revoked_at IS NOT NULL FROM sessions"
        revoked: dict[str, bool] = dict(connection.execute(query).fetchall())
        orphans = connection.execute(
            "SELECT count(*) FROM users JOIN sessions ON user_id = users.id"
            " WHERE deleted_at IS NOT NULL AND is_valid"
        ).fetchone()
    wrong = [f"{orphans} sessions of deleted users"] if orphans != (0,) else []
    found = {email: rest for email, *rest in rows}
    if len(found) != len(rows):
        wrong.append("two users of one address")
    for account in accounts:
        wrong += _differences(account, found.get(account.email), revoked)
    return wrong


def _differences(
    account: Account, row: Sequence[Any] | None, revoked: dict[str, bool]
) -> list[str]:
    if row is None:
        return [f"{account.email} is lost"] if account.user_id else []
    user_id, name, deleted, has_profile = row
    found = []
    if not has_profile:
        found.append(f"{account.email} is half there")
    if account.user_id not in {"", user_id}:
        found.append(f"{account.email} is another user")
    if name not in account.names:
        found.append(f"{account.email} is called {name}, not {account.names}")
    if deleted not in account.deleted:
        found.append(f"{account.email} is deleted: {deleted}, not {account.deleted}")
    for key, expected in account.revoked.items():
        if key not in revoked:
            found.append(f"{key} is lost")
        elif revoked[key] not in expected and not deleted:
            found.append(f"{key} is revoked: {revoked[key]}, not {expected}")
    return found


def main() -> int:
    """Run seed after seed, print the results, and return the exit status."""
    parser = argparse.ArgumentParser(prog="make failover", description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--failovers", type=int, default=3, help="how many in the run of a seed")
    parser.add_argument("--silent", action="store_true", help="it is not killed, but silent")
    parser.add_argument("--writes", type=int, default=1500, help="before each, and at the end")
    given = parser.parse_args()
    passed = True
    for seed in range(given.seed, given.seed + given.seeds):
        with tempfile.TemporaryDirectory(prefix="tamatar-failover-") as folder:
            report = asyncio.run(
                run(
                    Path(folder),
                    seed=seed,
                    failovers=given.failovers,
                    writes=given.writes,
                    silent=given.silent,
                )
            )
        print(f"seed {seed}: {report}", *report.wrong[:20], sep="\n  ", flush=True)
        passed = passed and not report.wrong
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
