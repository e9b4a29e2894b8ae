"""Two server processes on one database: each sees at once what the other committed."""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import grpc
import pytest
from grpc import StatusCode

from tamatar.auth.v1 import session_service_pb2, user_service_pb2
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tests.support.calls import (
    NEW_PASSWORD,
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
from tests.support.session_watchers import End, watching

UNAUTHENTICATED = StatusCode.UNAUTHENTICATED


@dataclass
class Process:
    """The stubs of one server process."""

    users: UserServiceStub
    sessions: SessionServiceStub


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
def addresses(postgres, tmp_path_factory):
    """The addresses of two processes on one database."""
    name = f"processes_{uuid4().hex}"
    # With a smaller pool, calls would be refused when PostgreSQL stalls.
    given = {"TAMATAR_DATABASE_URL": postgres.create(name, TEMPLATE), "TAMATAR_POOL_SIZE": "30"}
    with contextlib.ExitStack() as stack:
        stack.callback(postgres.drop, name)
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
        yield [
            Process(UserServiceStub(channel), SessionServiceStub(channel)) for channel in channels
        ]


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


def cased(address, number):
    """Capitalise the letters whose bits are set in a number."""
    places = enumerate(address)
    return "".join(char.upper() if number >> place & 1 else char for place, char in places)
