"""Shows that no answer reveals by its time whether an account exists: `make timing`.

The cases take turns in random order, so that other load on the machine affects all of them.
Prints the median of each case and its ratio to the median of its group: sign-ins whose password
is checked, sign-ins that must wait, requests for a password reset, requests for a change of
address, starts of sign-ins with passkeys, and codes that answer challenges. Among the first are
sign-ins by the address of a user whose username must wait, or is disabled by wrong passwords.

Fails if a ratio is not between 0.90 and 1.10, or if the answers in a group differ. A busy machine
gets more rounds before that.
"""

import asyncio
import itertools
import logging
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import grpc
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP
from sqlalchemy import delete, func, update
from uuid_utils.compat import uuid7

from tamatar.auth.v1.portable_user_pb2 import PortableUser
from tamatar.auth.v1.session_service_pb2 import (
    BeginPasskeySignInRequest,
    CompleteSignInRequest,
    CreateSessionRequest,
)
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2 import (
    CreateEmailChangeRequest,
    CreatePasswordResetRequest,
    CreateUserRequest,
    DeactivateUserRequest,
    DeleteUserRequest,
    ImportUsersRequest,
)
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.config.settings import Settings
from tamatar_auth.embedded.postgres import EmbeddedPostgres
from tamatar_auth.migrator.migrations import Migrations
from tamatar_auth.observability.logs import AUDIT_LOGGER, configure_logs
from tamatar_auth.security.factor_keys import FactorKeys
from tamatar_auth.security.tokens import ChallengeToken
from tamatar_auth.server.app import run_service
from tamatar_auth.server.lifecycle import RunningService
from tamatar_auth.storage.factor_tables import challenges
from tamatar_auth.storage.repositories.challenges import ChallengePurpose, NewChallenge
from tamatar_auth.storage.repositories.factors import FactorKind, NewFactor
from tamatar_auth.storage.tables import password_attempts, user_tokens, users

ROUNDS, MAX_ROUNDS = 40, 200
LEAST, MOST = 0.90, 1.10
SHORT_CALLS = 20
"""Calls in a round of a case without a hash."""
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
    "wrong with app",
    "wrong with passkey",
    "name throttled",
    "name disabled",
)
THROTTLED = ("throttled, known", "throttled, unknown")
RESET = ("reset, known", "reset, unknown", "reset, inactive")
CHANGE = ("change, taken", "change, unknown", "change, inactive")
PASSKEY = ("passkey, known", "passkey, none", "passkey, unknown", "passkey, inactive")
CODE = ("code, wrong", "code, used", "code, expired", "code, no challenge", "code, no app")
CODE_CALLS = 3
"""Calls in a round of a case with a code, before the waits begin."""
APP_SECRET = b"a secret of 20 bytes"
APP = TOTP(APP_SECRET, 6, SHA1(), 30)  # noqa: S303 - as apps do
CHANGING_USER = "0190d9a0-0000-7000-8000-000000000000"
"""The id of the user who requests a change to the address of a case."""


class Case(NamedTuple):
    """The cause of a refusal or the kind of a request, and the length of the password."""

    kind: str
    length: str


GROUPS = (
    [Case(*case) for case in itertools.product(PASSWORD_CHECKED, LENGTHS)],
    *([Case(kind, length) for kind in THROTTLED] for length in LENGTHS),
    [Case(kind, "") for kind in RESET],
    [Case(kind, "") for kind in CHANGE],
    [Case(kind, "") for kind in PASSKEY],
    [Case(kind, "") for kind in CODE],
)


async def main() -> bool:
    """Measure and print; return whether the answers are alike."""
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
        logging.getLogger(AUDIT_LOGGER).setLevel(logging.CRITICAL)  # thousands of events
        async with run_service(settings.with_database(postgres.url())) as service:
            return await measure(service)


async def measure(service: RunningService) -> bool:
    """Measure all cases in turns, and return whether they are alike."""
    cases = [case for group in GROUPS for case in group]
    seconds: dict[Case, list[float]] = {case: [] for case in cases}
    answers: dict[Case, set[str]] = {case: set() for case in cases}
    async with grpc.aio.insecure_channel(str(service.addresses[0])) as channel:
        await populate(service, UserServiceStub(channel))
        for number in range(MAX_ROUNDS):
            report_progress(f"round {number + 1}")
            random.Random(number).shuffle(cases)  # noqa: S311 - no secret
            for case in cases:
                await prepare(service, channel, case.kind)
                for _ in range(calls_in_round(case.kind)):
                    answer, took = await timed(call(channel, case))
                    seconds[case].append(took)
                    answers[case].add(answer)
            is_alike = all(LEAST <= ratio <= MOST for ratio in ratios(seconds).values())
            if (number + 1) % ROUNDS == 0 and is_alike:
                break
    print_table(seconds)
    for group in GROUPS:
        said = set().union(*(answers[case] for case in group))
        print(f"{' '.join(group[0]).strip()}, …: answered {', '.join(sorted(said))}")
        is_alike = is_alike and len(said) == 1
    return is_alike


def calls_in_round(kind: str) -> int:
    """Return how many calls of a case follow each other."""
    if kind in PASSWORD_CHECKED:
        return 1
    return CODE_CALLS if kind in CODE else SHORT_CALLS


async def populate(service: RunningService, stub: Any) -> None:
    """Create a user for each cause that needs one."""
    changing = PortableUser(user_id=CHANGING_USER, email="changing@example.com")
    async for _ in stub.ImportUsers(iter([ImportUsersRequest(users=[changing])])):
        pass
    for kind in (*PASSWORD_CHECKED, *THROTTLED, *RESET, *CHANGE, *PASSKEY, *CODE):
        if "unknown" in kind:
            continue
        password = "" if kind == "no password" else PASSWORD
        username = username_of(kind) if kind.startswith("name") else ""
        request = CreateUserRequest(email=address(kind), username=username, password=password)
        user_id = (await stub.CreateUser(request)).user.user_id
        if kind == "deleted":
            await stub.DeleteUser(DeleteUserRequest(user_id=user_id))
        if kind in {"passkey, known", "passkey, inactive", "wrong with passkey"}:
            await store_passkey(service, user_id)
        if kind == "wrong with app" or (kind in CODE and kind != "code, no app"):
            await store_app(service, user_id)
        if "inactive" in kind:
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


async def store_passkey(service: RunningService, user_id: str) -> None:
    """Store a passkey of a user."""
    async with service.database.transaction() as tx:
        await tx.factors.add(
            NewFactor(
                id=uuid7(),
                user_id=UUID(user_id),
                kind=FactorKind.PASSKEY,
                credential_id=UUID(user_id).bytes,
                public_key=b"of nobody",
                transports="internal hybrid",
            )
        )


async def store_app(service: RunningService, user_id: str) -> None:
    """Store an authenticator app of a user, whose codes of today are used."""
    settings = Settings.load(env_file=None).factors
    keys, factor_id = FactorKeys.load(settings, in_development=True), uuid7()
    encrypted = keys.encrypt(factor_id, APP_SECRET)
    new = NewFactor(
        id=factor_id,
        user_id=UUID(user_id),
        kind=FactorKind.TOTP,
        key_id=encrypted.key_id,
        encrypted_secret=encrypted.content,
    )
    async with service.database.transaction() as tx:
        await tx.factors.add(new)
        await tx.factors.confirm(factor_id, 2**40)


async def issue_challenge(service: RunningService, kind: str) -> None:
    """Issue the challenge of a case with a code."""
    token, purpose = challenge_token(kind), ChallengePurpose.SIGN_IN
    async with service.database.transaction() as tx:
        user = await tx.users.get_by_email(address(kind))
        new = NewChallenge(token_digest=token.digest, purpose=purpose, user_id=user.id)
        await tx.challenges.issue(new)
        if kind == "code, expired":
            await tx.connection.execute(update(challenges).values(expires_at=func.now()))


def challenge_token(kind: str) -> ChallengeToken:
    """Return the token of the challenge of a case."""
    return ChallengeToken(f"tmh_{kind}")


async def prepare(service: RunningService, channel: grpc.aio.Channel, kind: str) -> None:
    """Forget all attempts and tokens, and then block what the case needs blocked."""
    async with service.database.transaction() as tx:
        await tx.connection.execute(delete(password_attempts))
        await tx.connection.execute(delete(user_tokens))
        await tx.connection.execute(delete(challenges))
    if kind in CODE and kind != "code, no challenge":
        await issue_challenge(service, kind)
    if kind not in THROTTLED and not kind.startswith("name"):
        return
    wrong = CreateSessionRequest(email=address(kind), password="x")
    if kind not in THROTTLED:
        wrong.username = username_of(kind)
    await timed(SessionServiceStub(channel).CreateSession(wrong))
    failures = 100 if kind == "name disabled" else 50
    async with service.database.transaction() as tx:
        until = func.now() + func.make_interval(0, 0, 0, 1)
        await tx.connection.execute(
            update(password_attempts).values(failures=failures, blocked_until=until)
        )


def call(channel: grpc.aio.Channel, case: Case) -> Awaitable[Any]:
    """Begin the call of a case."""
    stub = UserServiceStub(channel)
    if case.kind in RESET:
        return stub.CreatePasswordReset(CreatePasswordResetRequest(email=address(case.kind)))
    if case.kind in CHANGE:
        return stub.CreateEmailChange(
            CreateEmailChangeRequest(user_id=CHANGING_USER, email=address(case.kind))
        )
    if case.kind in PASSKEY:
        request = BeginPasskeySignInRequest(email=address(case.kind))
        return SessionServiceStub(channel).BeginPasskeySignIn(request)
    if case.kind in CODE:
        code = APP.generate(time.time()).decode() if case.kind == "code, used" else "no code"
        answer = CompleteSignInRequest(
            challenge_token=challenge_token(case.kind).text, totp_code=code
        )
        return SessionServiceStub(channel).CompleteSignIn(answer)
    sign_in = CreateSessionRequest(email=address(case.kind), password=LENGTHS[case.length])
    return SessionServiceStub(channel).CreateSession(sign_in)


async def timed(answer: Awaitable[Any]) -> tuple[str, float]:
    """Return the status of a call and its details, and the duration of the call."""
    began = time.perf_counter()
    try:
        await answer
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name} ({error.details()})", time.perf_counter() - began
    return "OK", time.perf_counter() - began


def ratios(seconds: dict[Case, list[float]]) -> dict[Case, float]:
    """Return the ratio of the median of each case to the median of its group."""
    found: dict[Case, float] = {}
    for group in GROUPS:
        of_group = statistics.median(took for case in group for took in seconds[case])
        found |= {case: statistics.median(seconds[case]) / of_group for case in group}
    return found


def print_table(seconds: dict[Case, list[float]]) -> None:
    """Print medians and ratios."""
    print(f"{'call':<20}{'password':<12}{'median':>12}{'ratio':>8}")
    for case, ratio in ratios(seconds).items():
        median = statistics.median(seconds[case]) * 1000
        print(f"{case.kind:<20}{case.length:<12}{median:>9.2f} ms{ratio:>8.2f}")


def username_of(kind: str) -> str:
    """Return the username of the user for a case of an account with a username."""
    return kind.replace(" ", ".")


def address(kind: str) -> str:
    """Return the address of the user for a cause."""
    return kind.replace(" ", "-").replace(",", "") + "@example.com"


def report_progress(line: str) -> None:
    """Print the progress."""
    print(line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(not asyncio.run(main()))
