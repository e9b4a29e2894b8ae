"""More passwords at once than the server hashes: the excess alone is refused."""

import asyncio
import threading
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

import bcrypt
import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from sqlalchemy import func, select, text

from tamatar.auth.v1 import session_service_pb2, user_service_pb2
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.errors import ServiceStopping
from tamatar_auth.security.attempt_keys import key_of_email
from tamatar_auth.server.app import run_service
from tamatar_auth.servicers import password_check
from tamatar_auth.storage.repositories.login_attempts import (
    FREE_ATTEMPTS,
    LoginAttemptRepository,
)
from tamatar_auth.storage.tables import password_attempts
from tests.server.test_app import channel_to
from tests.support.call_statements import statements_of_calls
from tests.support.calls import (
    INVALID_CREDENTIALS,
    NEW_PASSWORD,
    PASSWORD,
    ada,
    read_refusal,
    refusal,
    refused,
    sign_in,
)
from tests.support.settings import changed
from tests.support.waiting import PATIENCE, eventually

THREADS, QUEUE = 2, 5
PERMITS = THREADS + QUEUE
SERVER_BUSY = (StatusCode.RESOURCE_EXHAUSTED, "SERVER_BUSY")


class Gate:
    """Holds every check of a password until the gate opens."""

    def __init__(self):
        self.checks = 0
        self._opened = threading.Event()
        self._check = bcrypt.checkpw

    def __call__(self, *args):
        self.checks += 1
        self._opened.wait(30)
        return self._check(*args)

    def open(self):
        self._opened.set()


@pytest.fixture
def gate(monkeypatch):
    gate = Gate()
    monkeypatch.setattr(bcrypt, "checkpw", gate)
    yield gate
    gate.open()


@pytest.fixture
async def service(settings, database):
    """A server that hashes few passwords at once."""
    few = changed(settings, hash_threads=THREADS, hash_queue=QUEUE)
    async with run_service(few) as service:
        yield service


def load(service):
    return service.components.passwords.hash_queue.load


async def reach(service, **expected):
    async def reached():
        return load(service)._asdict() == expected

    await eventually(reached)


async def attempts(database):
    """Return the failures that were counted, and the attempts in progress."""
    typed = [key_of_email(f"unknown{number}@example.com") for number in range(200)]
    counted = (func.sum(password_attempts.c.failures), func.sum(password_attempts.c.pending))
    async with database.read() as db:
        found = await db.connection.execute(
            select(*(func.coalesce(each, 0) for each in counted)).where(
                password_attempts.c.account.in_(typed)
            )
        )
        return tuple(found.one())


async def hold(sessions, service, count):
    """Sign in several times: the first calls are hashing, the others wait."""
    tasks = []
    for number in range(count):
        tasks.append(asyncio.create_task(attempt(sessions, number)))
        if number + 1 in {THREADS, count}:
            waiting = max(0, number + 1 - THREADS)
            await reach(service, taken=number + 1, hashing=THREADS, waiting=waiting)
    return tasks


async def attempt(sessions, number, **options):
    """Send a wrong password for an account of its own."""
    await sessions.CreateSession(sign_in(email=f"unknown{number}@example.com"), **options)


def said(outcome):
    assert isinstance(outcome, grpc.aio.AioRpcError)
    read = read_refusal(outcome)
    return read.code, read.reason


@asynccontextmanager
async def connection(service):
    """Open a separate connection that carries 100 calls at once."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    address = str(service.addresses[0])
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        # Before its first response, a client does not know the server's limit of calls.
        await HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        yield SessionServiceStub(channel)


async def create(users, _user, _token):
    await users.CreateUser(ada(email="bob@example.com"))


async def change(users, user, _token):
    request = user_service_pb2.ChangePasswordRequest(
        user_id=user.user_id, current_password=PASSWORD, new_password=NEW_PASSWORD
    )
    await users.ChangePassword(request)


async def reset(users, _user, token):
    request = user_service_pb2.ResetPasswordRequest(token=token, new_password=NEW_PASSWORD)
    await users.ResetPassword(request)


async def wrong_reset(users, _user, _token):
    await reset(users, _user, "tmu_" + "x" * 43)


class TestCancellation:
    """Calls that go away, and a server that stops."""

    @pytest.mark.parametrize("kind", ["cancelled", "deadline"])
    async def test_call_gone_before_its_hash_is_not_hashed(self, service, sessions, gate, kind):
        held = await hold(sessions, service, THREADS)
        options = {"timeout": 15} if kind == "deadline" else {}
        request = sign_in(email="gone@example.com")
        calls = [sessions.CreateSession(request, **options) for _ in range(2)]
        await reach(service, taken=THREADS + 2, hashing=THREADS, waiting=2)
        if kind == "cancelled":
            for call in calls:
                call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await reach(service, taken=THREADS, hashing=THREADS, waiting=0)
        gate.open()
        await asyncio.gather(*held, return_exceptions=True)

        assert gate.checks == THREADS

    async def test_call_cancelled_while_hashed_keeps_its_permit(self, service, sessions, gate):
        held = await hold(sessions, service, PERMITS)
        held[0].cancel()
        held[1].cancel()
        await asyncio.wait(held[:2])

        assert await refusal(sessions.CreateSession(sign_in())) == SERVER_BUSY
        gate.open()
        await asyncio.gather(*held, return_exceptions=True)
        await reach(service, taken=0, hashing=0, waiting=0)

    async def test_stopping_server_answers_hashing_calls(self, settings, database, gate):
        before = set(threading.enumerate())
        few = changed(settings, hash_threads=THREADS, hash_queue=QUEUE)
        async with AsyncExitStack() as stack:
            service = await stack.enter_async_context(run_service(few))
            channel = await stack.enter_async_context(channel_to(service))
            held = await hold(SessionServiceStub(channel), service, PERMITS)
            hashing = {it for it in threading.enumerate() if it.name.startswith("hash_")} - before

            stopping = asyncio.create_task(service.stop())
            await service.server.wait_for_termination(0.2)
            assert not stopping.done()
            gate.open()
            await stopping
            await eventually(lambda: not any(thread.is_alive() for thread in hashing))
            outcomes = await asyncio.gather(*held, return_exceptions=True)

        assert {said(outcome) for outcome in outcomes} == {INVALID_CREDENTIALS}
        assert len(hashing) == THREADS

    async def test_call_gone_before_its_hash_counts_no_attempt(
        self, service, sessions, user, gate, database
    ):
        tasks = await hold(sessions, service, THREADS)
        for _ in range(5):
            impatient = asyncio.create_task(attempt(sessions, 99))
            await reach(service, taken=THREADS + 1, hashing=THREADS, waiting=1)
            impatient.cancel()
            await reach(service, taken=THREADS, hashing=THREADS, waiting=0)

        async def given_back():
            return await attempts(database) == (0, THREADS)

        await eventually(given_back)
        gate.open()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert await attempts(database) == (THREADS, 0)

    async def test_wrong_password_of_cancelled_call_counts(self, service, sessions, gate, database):
        tasks = await hold(sessions, service, PERMITS)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert await attempts(database) != (THREADS, 0)
        gate.open()

        async def counted():
            return await attempts(database) == (THREADS, 0)

        await eventually(counted)

    async def test_call_cancelled_while_it_reserves_keeps_no_reservation(
        self, service, sessions, database, monkeypatch
    ):
        monkeypatch.setattr(password_check, "CANCELLED_RESERVATION_TIMEOUT", 30)
        answered, reserve = asyncio.Event(), LoginAttemptRepository.reserve

        async def late(*args):
            reservation = await reserve(*args)
            await answered.wait()
            return reservation

        monkeypatch.setattr(LoginAttemptRepository, "reserve", late)
        task = asyncio.create_task(attempt(sessions, 1))

        async def counted(*expected):
            return await attempts(database) == expected

        await eventually(lambda: counted(0, 1))
        task.cancel()
        await reach(service, taken=0, hashing=0, waiting=0)
        answered.set()

        await eventually(lambda: counted(0, 0))

    async def test_call_cancelled_before_its_attempt_is_settled_counts(
        self, service, sessions, gate, database, monkeypatch
    ):
        monkeypatch.setattr(password_check, "SETTLE_TIMEOUT", 30)
        task = asyncio.create_task(attempt(sessions, 1))
        await reach(service, taken=1, hashing=1, waiting=0)
        async with AsyncExitStack() as lent:
            for _ in range(service.database.pool.size):
                await lent.enter_async_context(service.database.read())
            gate.open()
            await eventually(lambda: service.database.pool.waiting)
            task.cancel()
            await reach(service, taken=0, hashing=0, waiting=0)

        async def counted():
            return await attempts(database) == (1, 0)

        await eventually(counted)

    async def test_attempt_is_released_after_deadline_of_call(
        self, settings, database, gate, monkeypatch
    ):
        monkeypatch.setattr(password_check, "SETTLE_TIMEOUT", 30)
        hasty = {"hash_threads": 1, "call_deadline": timedelta(seconds=1.5)}
        async with (
            run_service(changed(settings, **hasty)) as service,
            channel_to(service) as channel,
        ):
            sessions = SessionServiceStub(channel)
            hashing = asyncio.create_task(attempt(sessions, 1, timeout=PATIENCE))
            await reach(service, taken=1, hashing=1, waiting=0)
            waiting = asyncio.create_task(attempt(sessions, 2))
            await reach(service, taken=2, hashing=1, waiting=1)
            async with database.transaction() as tx:
                await tx.connection.execute(text("LOCK password_attempts IN EXCLUSIVE MODE"))
                outcomes = await asyncio.gather(waiting, return_exceptions=True)
                assert {said(it)[0] for it in outcomes} == {StatusCode.DEADLINE_EXCEEDED}
                await asyncio.sleep(0.1)

            async def given_back():
                return await attempts(database) == (0, 1)

            await eventually(given_back)
            gate.open()
            await asyncio.gather(hashing, return_exceptions=True)


class TestRefusals:
    """Calls beyond the permits, and calls beside them."""

    async def test_excess_sign_ins_are_refused_and_not_counted(self, service, database, gate):
        async with AsyncExitStack() as open_connections:
            stubs = [await open_connections.enter_async_context(connection(service)) for _ in "12"]
            tasks = [
                asyncio.create_task(attempt(stubs[number % 2], number)) for number in range(200)
            ]

            async def excess_is_refused():
                return sum(task.done() for task in tasks) == 200 - PERMITS

            await eventually(excess_is_refused)
            await reach(service, taken=PERMITS, hashing=THREADS, waiting=QUEUE)
            await eventually(lambda: gate.checks == THREADS)
            gate.open()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)

        reasons = [said(outcome) for outcome in outcomes]
        assert reasons.count(SERVER_BUSY) == 200 - PERMITS
        assert reasons.count(INVALID_CREDENTIALS) == PERMITS == gate.checks
        assert await attempts(database) == (PERMITS, 0)
        waits = {
            read_refusal(outcome).retry_seconds
            for outcome in outcomes
            if said(outcome) == SERVER_BUSY
        }
        assert len(waits) > 1  # the retry delays are spread
        assert all(0.1 <= wait <= 10 for wait in waits)

    async def test_sign_ins_of_one_user_leave_turns_to_others(
        self, settings, database, user, gate, monkeypatch
    ):
        monkeypatch.setattr(password_check, "RESERVATION_WAIT", 30)
        many = changed(settings, hash_threads=THREADS, hash_queue=28)
        async with run_service(many) as service, channel_to(service) as channel:
            sessions = SessionServiceStub(channel)
            tasks = [asyncio.create_task(attempt(sessions, 1)) for _ in range(40)]

            async def excess_is_refused():
                return sum(task.done() for task in tasks) == 40 - 15 - FREE_ATTEMPTS - 1

            await eventually(excess_is_refused)
            assert {said(task.exception()) for task in tasks if task.done()} == {SERVER_BUSY}
            other = asyncio.create_task(attempt(sessions, 2))
            await reach(service, taken=20, hashing=THREADS, waiting=3)
            gate.open()
            outcomes = await asyncio.gather(other, *tasks, return_exceptions=True)

        assert said(outcomes[0]) == INVALID_CREDENTIALS

    async def test_other_calls_succeed_while_no_password_is_hashed(
        self, service, sessions, users, user, gate
    ):
        gate.open()
        token = (await sessions.CreateSession(sign_in())).session_token
        async with AsyncExitStack() as taken:
            for _ in range(PERMITS):
                await taken.enter_async_context(service.components.passwords.permit())

            validate = session_service_pb2.ValidateSessionRequest(session_token=token)
            for _ in range(50):
                await sessions.ValidateSession(validate)
            await users.GetUser(user_service_pb2.GetUserRequest(user_id=user.user_id))
            await users.CreateUser(ada(email="bob@example.com", password=""))
            assert await refusal(sessions.CreateSession(sign_in())) == SERVER_BUSY
        await sessions.CreateSession(sign_in())

    async def test_validation_succeeds_while_every_thread_hashes(
        self, service, sessions, user, gate, database
    ):
        gate.open()
        token = (await sessions.CreateSession(sign_in())).session_token
        gate._opened.clear()
        tasks = await hold(sessions, service, PERMITS)

        validate = session_service_pb2.ValidateSessionRequest(session_token=token)
        await asyncio.gather(*(sessions.ValidateSession(validate) for _ in range(50)))

        assert not any(task.done() for task in tasks)
        gate.open()
        await asyncio.gather(*tasks, return_exceptions=True)

    @pytest.mark.parametrize(
        "way", [create, change, reset, wrong_reset], ids=lambda way: way.__name__
    )
    async def test_full_queue_refuses_before_any_statement(self, service, users, user, way):
        asked = user_service_pb2.CreatePasswordResetRequest(email="ada@example.com")
        token = (await users.CreatePasswordReset(asked)).token
        async with AsyncExitStack() as taken:
            for _ in range(PERMITS):
                await taken.enter_async_context(service.components.passwords.permit())
            with statements_of_calls(service) as statements:
                refusal = await refused(way(users, user, token))

        assert (refusal.code, refusal.reason) == SERVER_BUSY
        assert refusal.retry_seconds
        assert statements == []
        if way is not wrong_reset:
            await way(users, user, token)

    async def test_create_user_after_busy_refusal_can_be_repeated(self, service, channel):
        users = UserServiceStub(channel)
        request = ada(request_id="4f9f6f2e-6f0b-4a3e-9d55-2f0a9b7f6a11")
        async with AsyncExitStack() as taken:
            for _ in range(PERMITS):
                await taken.enter_async_context(service.components.passwords.permit())
            assert await refusal(users.CreateUser(request)) == SERVER_BUSY

        created = await users.CreateUser(request)
        assert (await users.CreateUser(request)).user == created.user

    async def test_permit_after_close_raises(self, service):
        passwords = service.components.passwords
        await passwords.close()

        with pytest.raises(ServiceStopping):
            async with passwords.permit():
                pass
        assert load(service) == (0, 0, 0)
