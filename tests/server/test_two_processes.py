"""Two server processes on one database: each sees at once what the other committed."""

import asyncio
import contextlib
import itertools
import time
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import grpc
import psycopg
import pytest
from grpc import StatusCode

from tamatar.auth.v1 import session_service_pb2, user_service_pb2
from tamatar.auth.v1.factor_service_pb2_grpc import FactorServiceStub
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.security.attempt_keys import key_of_email
from tamatar_auth.storage.repositories.login_attempts import FREE_ATTEMPTS
from tests.support.calls import (
    NEW_PASSWORD,
    PASSWORD,
    TOO_MANY_ATTEMPTS,
    ada,
    change,
    password_reset,
    read_refusal,
    refresh,
    refusal,
    reset,
    sign_in,
    validate,
)
from tests.support.commands import serving
from tests.support.databases import TEMPLATE
from tests.support.factors import INVALID_PROOF, challenge, complete, confirm, create_app
from tests.support.session_watchers import End, watching
from tests.support.waiting import eventually

UNAUTHENTICATED = StatusCode.UNAUTHENTICATED
SERVER_BUSY = (StatusCode.RESOURCE_EXHAUSTED, "SERVER_BUSY")


@dataclass
class Process:
    """The stubs of one server process."""

    users: UserServiceStub
    sessions: SessionServiceStub
    factors: FactorServiceStub


@dataclass
class Scene:
    """A user with a session, and the two processes that have validated it."""

    first: Process
    second: Process
    user: Any
    started: Any

    async def of_user(self, process, method):
        """Call a method that takes only the user's id."""
        request = getattr(user_service_pb2, f"{method}Request")(user_id=self.user.user_id)
        return await getattr(process.users, method)(request)


@pytest.fixture(scope="module")
def given(postgres):
    """The settings of processes on one database."""
    name = f"processes_{uuid4().hex}"
    # With a smaller pool, calls would be refused when PostgreSQL stalls.
    yield {"TAMATAR_DATABASE_URL": postgres.create(name, TEMPLATE), "TAMATAR_POOL_SIZE": "30"}
    postgres.drop(name)


@pytest.fixture(scope="module")
def addresses(given, tmp_path_factory):
    """The addresses of two processes on one database."""
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(serving(cwd=tmp_path_factory.mktemp("server"), **given))
            for _ in range(2)
        ]
        yield [server.addresses[0] for server in servers]
        assert len({server.process.pid for server in servers}) == 2
        assert not [server for server in servers if server.process.poll() is not None]


@pytest.fixture
async def processes(addresses):
    async with contextlib.AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(address))
            for address in addresses
        ]
        stubs = (UserServiceStub, SessionServiceStub, FactorServiceStub)
        yield [Process(*(stub(channel) for stub in stubs)) for channel in channels]


@pytest.fixture
async def scene(processes):
    first, second = processes
    email = f"{uuid4()}@example.com"
    created = await first.users.CreateUser(ada(email=email, email_verified=True))
    started = await second.sessions.CreateSession(sign_in(email=email))
    for process in processes:
        await validate(process.sessions, started.session_token)
    return Scene(first, second, created.user, started)


async def change_password(scene):
    await change(scene.first.users, scene.user)


async def reset_password(scene):
    secret = await password_reset(scene.first.users, scene.user.email)
    await reset(scene.first.users, secret.token)


async def deactivate(scene):
    await scene.of_user(scene.first, "DeactivateUser")


async def delete(scene):
    await scene.of_user(scene.first, "DeleteUser")


async def purge(scene):
    await scene.of_user(scene.first, "PurgeUser")


async def revoke(scene):
    request = session_service_pb2.RevokeSessionRequest(session_id=scene.started.session.session_id)
    await scene.first.sessions.RevokeSession(request)


async def revoke_all(scene):
    request = session_service_pb2.RevokeUserSessionsRequest(user_id=scene.user.user_id)
    await scene.first.sessions.RevokeUserSessions(request)


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (change_password, "SESSION_REVOKED"),
        (reset_password, "SESSION_REVOKED"),
        (deactivate, "SESSION_REVOKED"),
        (delete, "SESSION_REVOKED"),
        (purge, "SESSION_UNKNOWN"),
        (revoke, "SESSION_REVOKED"),
        (revoke_all, "SESSION_REVOKED"),
    ],
)
async def test_session_ended_on_one_process_is_refused_by_other(scene, end, reason):
    await end(scene)

    sessions, token = scene.second.sessions, scene.started.session_token
    assert await refusal(validate(sessions, token)) == (UNAUTHENTICATED, reason)
    assert await refusal(refresh(sessions, token)) == (UNAUTHENTICATED, reason)


@pytest.mark.parametrize("end", [change_password, delete, purge, revoke])
async def test_session_end_on_one_process_reaches_watches_of_both(scene, end):
    expected = End(scene.user.user_id, scene.started.session.session_id)
    async with watching(scene.first.sessions) as one, watching(scene.second.sessions) as other:
        await end(scene)

        await one.wait_for(expected)
        await other.wait_for(expected)


@pytest.mark.parametrize(
    ("away", "back"), [("DeactivateUser", "ActivateUser"), ("DeleteUser", "RestoreUser")]
)
async def test_returned_user_has_no_former_sessions(scene, away, back):
    await scene.of_user(scene.first, away)
    await scene.of_user(scene.second, back)

    for process in (scene.second, scene.first):
        refused = await refusal(validate(process.sessions, scene.started.session_token))
        assert refused == (UNAUTHENTICATED, "SESSION_REVOKED")
    fresh = await scene.first.sessions.CreateSession(sign_in(email=scene.user.email))
    await validate(scene.second.sessions, fresh.session_token)


async def test_step_up_on_one_process_is_seen_by_other(scene):
    old = scene.started.session_token
    begun = await scene.first.sessions.BeginStepUp(
        session_service_pb2.BeginStepUpRequest(session_token=old)
    )
    request = session_service_pb2.CompleteStepUpRequest(
        session_token=old, challenge_token=begun.challenge.challenge_token, password=PASSWORD
    )
    stepped_up = await scene.second.sessions.CompleteStepUp(request)

    refused = await refusal(validate(scene.first.sessions, old))
    assert refused == (UNAUTHENTICATED, "SESSION_UNKNOWN")
    await validate(scene.first.sessions, stepped_up.session_token)


async def test_app_of_one_process_signs_in_at_other_once(scene):
    first, second = scene.first, scene.second
    app = await create_app(first.factors, scene.user)
    await confirm(second.factors, app)
    tokens = [await challenge(first.sessions, email=scene.user.email) for _ in range(2)]
    code = app.code(1)  # the code of now has confirmed the app

    signed_in = await complete(second.sessions, tokens[0], totp_code=code)
    assert await refusal(complete(first.sessions, tokens[1], totp_code=code)) == INVALID_PROOF
    await validate(first.sessions, signed_in.session_token)


async def test_password_changed_on_one_process_works_on_other(scene):
    await change_password(scene)

    email, sessions = scene.user.email, scene.second.sessions
    assert await refusal(sessions.CreateSession(sign_in(email=email))) == (
        UNAUTHENTICATED,
        "INVALID_CREDENTIALS",
    )
    await sessions.CreateSession(sign_in(email=email, password=NEW_PASSWORD))


@pytest.mark.parametrize("attempt", range(5))
async def test_50_concurrent_users_of_one_email_one_is_created(processes, attempt):
    first, second = processes
    addresses = [cased(f"grace{attempt}@example.com", number) for number in range(50)]
    assert len(set(addresses)) > 25

    outcomes = await asyncio.gather(
        *(
            process.users.CreateUser(ada(email=address))
            for process, address in zip([first, second] * 25, addresses, strict=True)
        ),
        return_exceptions=True,
    )

    refused = [outcome for outcome in outcomes if isinstance(outcome, grpc.RpcError)]
    assert len(outcomes) - len(refused) == 1
    reasons = {(said.code, said.reason) for said in map(read_refusal, refused)}
    assert reasons == {(StatusCode.ALREADY_EXISTS, "EMAIL_TAKEN")}


async def test_right_passwords_at_once_on_two_processes_sign_in(scene):
    processes = (scene.first, scene.second)
    await refusal(scene.first.sessions.CreateSession(sign_in(email=scene.user.email, password="x")))

    outcomes = await sign_in_at_once(scene, processes * 10)

    # A busy machine may need longer than a call waits for its turn.
    assert set(outcomes) <= {"OK", SERVER_BUSY}
    assert "OK" in outcomes


async def test_wrong_passwords_at_once_on_two_processes_check_few(scene):
    began = time.monotonic()
    outcomes = await sign_in_at_once(scene, (scene.first, scene.second) * 100, password="x")
    elapsed = time.monotonic() - began

    checked = outcomes.count((UNAUTHENTICATED, "INVALID_CREDENTIALS"))
    waits = itertools.accumulate(2**count for count in itertools.count())
    ended = list(itertools.takewhile(lambda seconds: seconds <= elapsed, waits))
    assert FREE_ATTEMPTS < checked <= FREE_ATTEMPTS + 1 + len(ended)
    assert set(outcomes) <= {
        (UNAUTHENTICATED, "INVALID_CREDENTIALS"),
        TOO_MANY_ATTEMPTS,
        SERVER_BUSY,
    }


async def test_attempts_of_killed_process_are_no_failures(scene, given, tmp_path):
    """Its reservations count until they expire."""
    email = scene.user.email
    slow = {"TAMATAR_BCRYPT_COST": "16", "TAMATAR_HASH_THREADS": "4"}
    url = given["TAMATAR_DATABASE_URL"]
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:

        async def counter():
            row = "SELECT failures, pending FROM password_attempts WHERE account = %s"
            return await (await connection.execute(row, [key_of_email(email)])).fetchone()

        with contextlib.ExitStack() as stack:
            server = stack.enter_context(serving(cwd=tmp_path, **given, **slow))
            channel = grpc.aio.insecure_channel(server.addresses[0])
            sessions = SessionServiceStub(channel)
            wrong = sign_in(email=email, password="x")
            calls = [sessions.CreateSession(wrong) for _ in range(FREE_ATTEMPTS + 1)]

            async def all_are_in_progress():
                return await counter() == (0, FREE_ATTEMPTS + 1)

            await eventually(all_are_in_progress)
            server.process.kill()
            await asyncio.gather(*calls, return_exceptions=True)
            await channel.close()

            assert await all_are_in_progress()
        assert (
            await refusal(scene.first.sessions.CreateSession(sign_in(email=email))) == SERVER_BUSY
        )
        await connection.execute("UPDATE password_attempts SET pending_until = now()")
    await scene.first.sessions.CreateSession(sign_in(email=email))


async def sign_in_at_once(scene, processes, **given):
    """Sign the user in many times at once, and return OK or the refusal of each."""
    request = sign_in(email=scene.user.email, **given)
    calls = [process.sessions.CreateSession(request) for process in processes]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    refused = [read_refusal(each) if isinstance(each, grpc.RpcError) else None for each in outcomes]
    return [(each.code, each.reason) if each else "OK" for each in refused]


def cased(address, number):
    """Capitalise the letters whose bits are set in a number."""
    places = enumerate(address)
    return "".join(char.upper() if number >> place & 1 else char for place, char in places)
