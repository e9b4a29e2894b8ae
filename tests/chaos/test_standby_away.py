"""A missing synchronous standby: a write is acknowledged only if it is safe."""

import asyncio
import contextlib
import signal
from datetime import timedelta
from uuid import uuid4

import grpc
import pytest
from grpc import StatusCode
from structlog.testing import capture_logs

from tamatar.auth.v1.session_service_pb2 import RefreshSessionRequest, RevokeSessionRequest
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.server.app import run_service
from tests.chaos.replication import Pair, ask, until_waiting
from tests.support.calls import ada, refusal, sign_in, validate
from tests.support.commands import IMPATIENT, serving
from tests.support.settings import changed
from tests.support.waiting import eventually, until

UNAVAILABLE = (StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
NO_ANSWER = (StatusCode.DEADLINE_EXCEEDED, "")

END_THE_WAIT = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
END_THE_CONNECTION = END_THE_WAIT.replace("cancel", "terminate")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    with Pair(tmp_path_factory.mktemp("pair")) as pair:
        yield pair


@pytest.fixture
def away(pair):
    """The pair; its standby comes back at the end of a test."""
    yield pair
    pair.rejoin()


@pytest.fixture
async def stubs(pair, settings):
    # The fence, which tests/chaos/test_deposed_primary.py is about, would refuse these writes.
    mine = changed(settings.with_database(pair.url), primary_acknowledged_within=timedelta(0))
    async with (
        run_service(mine) as service,
        grpc.aio.insecure_channel(str(service.addresses[0])) as channel,
    ):
        yield UserServiceStub(channel), SessionServiceStub(channel)


@pytest.fixture
def request_of_ada():
    key = uuid4()
    return ada(email=f"{key}@example.com", request_id=str(key), email_verified=True)


def seen(pair, request):
    return ask(pair.primary, "SELECT count(*) FROM users WHERE request_id = %s", request.request_id)


async def test_cancelled_write_is_visible_once_standby_has_it(away, stubs, request_of_ada):
    users, _ = stubs
    away.standby.stop()

    call = users.CreateUser(request_of_ada, timeout=60)
    await asyncio.to_thread(until_waiting, away.primary)
    call.cancel()
    assert await call.code() is StatusCode.CANCELLED
    assert seen(away, request_of_ada) == 0
    code, _ = await refusal(users.CreateUser(request_of_ada, timeout=5))
    assert code in {StatusCode.ABORTED, StatusCode.DEADLINE_EXCEEDED}

    await asyncio.to_thread(away.rejoin)
    created = await users.CreateUser(request_of_ada)
    assert seen(away, request_of_ada) == 1
    assert created.user.email == request_of_ada.email


async def test_wait_for_standby_is_logged_as_slow_commit(away, stubs, request_of_ada):
    users, _ = stubs
    away.standby.stop()
    with capture_logs() as logs:
        assert await refusal(users.CreateUser(request_of_ada, timeout=2)) == NO_ANSWER
        await eventually(lambda: logged_commits(logs))

    (line,) = logged_commits(logs)
    assert line["event"] == "slow statement"
    assert line["rpc"] == "tamatar.auth.v1.UserService/CreateUser"
    assert line["error"] == "CancelledError"


def logged_commits(logs):
    return [line for line in logs if line.get("summary") == "COMMIT"]


async def test_write_with_cancelled_wait_is_not_acknowledged(away, stubs, request_of_ada):
    users, _ = stubs
    away.standby.stop()
    call = asyncio.ensure_future(refusal(users.CreateUser(request_of_ada, timeout=60)))
    await asyncio.to_thread(until_waiting, away.primary)

    ask(away.primary, END_THE_WAIT)

    assert await call == UNAVAILABLE
    assert seen(away, request_of_ada) == 1
    assert await refusal(users.CreateUser(request_of_ada, timeout=1)) == NO_ANSWER
    await asyncio.to_thread(away.rejoin)
    await users.CreateUser(request_of_ada)


async def test_revocation_with_cancelled_wait_is_acknowledged_later(away, stubs, request_of_ada):
    users, sessions = stubs
    await users.CreateUser(request_of_ada)
    started = await sessions.CreateSession(sign_in(email=request_of_ada.email))
    request = RevokeSessionRequest(session_id=started.session.session_id)
    away.standby.stop()
    call = asyncio.ensure_future(refusal(sessions.RevokeSession(request, timeout=60)))
    await asyncio.to_thread(until_waiting, away.primary)

    ask(away.primary, END_THE_WAIT)

    assert await call == UNAVAILABLE
    assert await refusal(sessions.RevokeSession(request, timeout=1)) == NO_ANSWER
    await asyncio.to_thread(away.rejoin)
    await sessions.RevokeSession(request)


async def test_refresh_with_cancelled_wait_is_not_acknowledged(away, stubs, request_of_ada):
    users, sessions = stubs
    await users.CreateUser(request_of_ada)
    started = await sessions.CreateSession(sign_in(email=request_of_ada.email))
    request = RefreshSessionRequest(session_token=started.session_token)
    away.standby.stop()
    call = asyncio.ensure_future(refusal(sessions.RefreshSession(request, timeout=60)))
    await asyncio.to_thread(until_waiting, away.primary)

    ask(away.primary, END_THE_WAIT)

    assert await call == UNAVAILABLE


async def test_write_with_ended_connection_is_not_acknowledged(away, stubs, request_of_ada):
    users, _ = stubs
    away.standby.stop()
    call = asyncio.ensure_future(refusal(users.CreateUser(request_of_ada, timeout=60)))
    await asyncio.to_thread(until_waiting, away.primary)

    ask(away.primary, END_THE_CONNECTION)

    assert await call == UNAVAILABLE


async def test_validation_succeeds_while_writes_wait(away, stubs, request_of_ada):
    users, sessions = stubs
    await users.CreateUser(request_of_ada)
    started = await sessions.CreateSession(sign_in(email=request_of_ada.email))
    away.standby.stop()
    waiting = [
        asyncio.ensure_future(users.CreateUser(ada(email=f"{uuid4()}@example.com"), timeout=60))
        for _ in range(12)
    ]
    await asyncio.to_thread(until_waiting, away.primary, lambda count: count >= 10)

    await validate(sessions, started.session_token)

    await asyncio.to_thread(away.rejoin)
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) >= 10


async def test_stopping_server_leaves_waiting_commit_to_postgresql(away, request_of_ada, tmp_path):
    given = {
        "TAMATAR_DATABASE_URL": away.url,
        "TAMATAR_SHUTDOWN_GRACE": "1s",
        "TAMATAR_PRIMARY_ACKNOWLEDGED_WITHIN": "0",
    }
    with serving(limits=IMPATIENT, cwd=tmp_path, **given) as server:
        (address,) = server.addresses
        async with grpc.aio.insecure_channel(address) as channel:
            away.standby.stop()
            call = asyncio.ensure_future(
                UserServiceStub(channel).CreateUser(request_of_ada, timeout=30)
            )
            await asyncio.to_thread(until_waiting, away.primary)
            server.ask(signal.SIGTERM)
            # The exit code is 1 if a busy machine had to cut the shutdown off.
            assert await asyncio.to_thread(server.ended) in {0, 1}
            with contextlib.suppress(grpc.aio.AioRpcError):
                await call
        assert "Traceback" not in server.said
    assert seen(away, request_of_ada) == 0

    await asyncio.to_thread(away.rejoin)
    await asyncio.to_thread(until, lambda: seen(away, request_of_ada) == 1)
