"""Deadlines of calls that set none, and the limit of calls in flight."""

import asyncio
from datetime import timedelta
from itertools import count

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from sqlalchemy import text

from tamatar.auth.v1 import session_service_pb2 as session_pb
from tamatar.auth.v1 import user_service_pb2 as pb
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.embedded.postgres import EmbeddedPostgres
from tamatar_auth.interceptors.deadlines import PASSWORD_METHODS, DeadlineInterceptor
from tamatar_auth.interceptors.errors import ErrorInterceptor
from tamatar_auth.interceptors.in_flight import InFlightInterceptor
from tamatar_auth.interceptors.registry import HandlerRegistry
from tamatar_auth.migrator.migrations import Migrations
from tamatar_auth.server import database_monitor
from tamatar_auth.server.app import run_service
from tests.server.test_app import channel_to
from tests.support.calls import ada, read_refusal, refusal, refused, sign_in
from tests.support.frozen_postgres import frozen, make_psycopg_hold_cancelled_calls
from tests.support.settings import changed
from tests.support.telemetry_capture import Recording
from tests.support.waiting import PATIENCE, eventually

TIMED_OUT = (StatusCode.DEADLINE_EXCEEDED, "STORAGE_TIMED_OUT")
SHORT, LONG = timedelta(milliseconds=50), timedelta(minutes=10)


class Service:
    """A service that runs a given behaviour behind the interceptors under test."""

    def __init__(self, behaviour, *, others=SHORT, hashes=LONG, most=1000, meter=None):
        self.ends = []
        """The exception with which each handler ended."""
        self._server = grpc.aio.server()
        self.drain = InFlightInterceptor(most, meter)
        deadlines = DeadlineInterceptor(others, hashes)

        async def answer(request, context):
            try:
                return await behaviour(request, context) or b""
            except BaseException as error:
                self.ends.append(type(error))
                raise

        async def stream(request, context):
            await behaviour(request, context)
            yield b""

        answered = HandlerRegistry(self._server, [ErrorInterceptor(), self.drain, deadlines])
        methods = {
            "Any": grpc.unary_unary_rpc_method_handler(answer),
            "CreateSession": grpc.unary_unary_rpc_method_handler(answer),
            "Stream": grpc.unary_stream_rpc_method_handler(stream),
        }
        for service in ("tamatar.Service", "grpc.health.v1.Health"):
            answered.add_registered_method_handlers(service, methods)

    async def __aenter__(self):
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        return self

    async def __aexit__(self, *_):
        await self._channel.close()
        await self._server.stop(0)
        await self.drain.wait_until_idle()

    def call(self, method="Any", service="tamatar.Service", **options):
        return self._channel.unary_unary(f"/{service}/{method}")(b"", **options)

    def stream(self):
        return self._channel.unary_stream("/tamatar.Service/Stream")(b"")


async def for_ever(_request, _context):
    await asyncio.Event().wait()


class TestDeadlines:
    """The server's deadline, and the caller's."""

    async def test_call_without_deadline_ends_at_server_deadline(self):
        async with Service(for_ever) as service:
            assert await refusal(service.call()) == TIMED_OUT
            assert service.ends == [asyncio.CancelledError]

    async def test_calls_begun_in_sequence_all_end_at_deadline(self):
        async with Service(for_ever) as service:
            calls = []
            for _ in range(5):
                calls.append(asyncio.ensure_future(refusal(service.call())))
                await asyncio.sleep(0.02)

            assert await asyncio.gather(*calls) == [TIMED_OUT] * 5
            assert await refusal(service.call()) == TIMED_OUT

    async def test_deadline_of_caller_replaces_server_deadline(self):
        async def slow(_request, _context):
            await asyncio.sleep(0.3)

        async with Service(slow) as service:
            assert await service.call(timeout=PATIENCE) == b""
        async with Service(for_ever, others=LONG) as service:
            assert (await refused(service.call(timeout=0.05))).code is StatusCode.DEADLINE_EXCEEDED

    async def test_password_calls_and_streams_exceed_call_deadline(self):
        async def slow(_request, _context):
            await asyncio.sleep(0.3)

        async with Service(slow) as service:
            assert await service.call("CreateSession") == b""
            assert [answer async for answer in service.stream()] == [b""]

    async def test_call_that_ignores_cancellation_ends_at_deadline(self):
        async def stubborn(_request, _context):
            for _ in range(3):
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    continue
            await asyncio.Event().wait()

        async with Service(stubborn) as service:
            assert await refusal(service.call()) == TIMED_OUT

    async def test_call_that_answers_after_cancellation_succeeds(self):
        answers = count()

        async def stubborn(_request, _context):
            try:
                await asyncio.sleep(0.1 if next(answers) else 60)
            except asyncio.CancelledError:
                return b"late"
            return b"in time"

        async with Service(stubborn, others=timedelta(milliseconds=500)) as service:

            async def is_in_time():
                return await service.call() == b"in time"

            assert await service.call() == b"late"
            await eventually(is_in_time)

    async def test_cancelled_call_is_not_a_passed_deadline(self):
        async with Service(for_ever, others=LONG) as service:
            call = service.call()
            await eventually(lambda: service.drain.in_flight == 1)
            call.cancel()
            await eventually(lambda: service.drain.in_flight == 0)

        assert service.ends == [asyncio.CancelledError]

    def test_password_methods_exist(self):
        services = (
            pb.DESCRIPTOR.services_by_name["UserService"],
            session_pb.DESCRIPTOR.services_by_name["SessionService"],
        )
        assert {
            name for service in services for name in service.methods_by_name
        } >= PASSWORD_METHODS


@pytest.fixture
def own_postgres(tmp_path):
    """A server that a test may freeze."""
    with EmbeddedPostgres(tmp_path, settings={"fsync": "off"}) as postgres:
        Migrations(postgres.url()).upgrade()
        yield postgres


async def holds_nothing(service):
    return service.database.pool.in_use == service.components.drain.in_flight == 0


class TestFrozenDatabase:
    """Deadlines while the database is silent."""

    async def test_calls_to_frozen_database_end_at_server_deadline(
        self, settings, own_postgres, tmp_path
    ):
        mine = changed(
            settings.with_database(own_postgres.url()), call_deadline=timedelta(milliseconds=500)
        )
        async with run_service(mine) as service, channel_to(service) as channel:
            users = UserServiceStub(channel)
            await service.database.fill_pool()
            await users.GetUserStats(pb.GetUserStatsRequest(), timeout=PATIENCE)
            with frozen(tmp_path):
                calls = [refusal(users.GetUserStats(pb.GetUserStatsRequest())) for _ in range(5)]
                said = await asyncio.wait_for(asyncio.gather(*calls), PATIENCE)
                assert said == [TIMED_OUT] * 5
                assert service.database.pool.in_use == 0

            async def answers():
                try:
                    await users.GetUserStats(pb.GetUserStatsRequest())
                except grpc.aio.AioRpcError:
                    return False
                return True

            await eventually(answers)

    async def test_calls_to_frozen_database_free_all_after_deadline(
        self, settings, own_postgres, tmp_path, monkeypatch
    ):
        make_psycopg_hold_cancelled_calls(monkeypatch)
        # The readiness check holds a connection for that long as well.
        monkeypatch.setattr(database_monitor, "CHECK_TIMEOUT", 1)
        mine = settings.with_database(own_postgres.url())
        async with run_service(mine) as service, channel_to(service) as channel:
            users, sessions = UserServiceStub(channel), SessionServiceStub(channel)
            await service.database.fill_pool()
            with frozen(tmp_path):
                calls = [
                    refused(users.GetUserStats(pb.GetUserStatsRequest(), timeout=0.5)),
                    refused(users.CreateUser(ada(), timeout=0.5)),
                    refused(sessions.CreateSession(sign_in(), timeout=0.5)),
                ]
                said = await asyncio.gather(*calls)
                assert {each.code for each in said} == {StatusCode.DEADLINE_EXCEEDED}
                await eventually(lambda: holds_nothing(service))

    async def test_passed_server_deadline_rolls_back(self, settings, database):
        hasty = changed(settings, call_deadline=timedelta(milliseconds=150))
        async with run_service(hasty) as service, channel_to(service) as channel:
            users = UserServiceStub(channel)
            async with database.transaction() as tx:
                await tx.connection.execute(
                    text(
                        "INSERT INTO users (id, email)"
                        " VALUES (gen_random_uuid(), 'ada@example.com')"
                    )
                )
                assert await refusal(users.CreateUser(ada(username="ada"))) == TIMED_OUT
                await tx.connection.rollback()
            assert service.database.pool.in_use == 0
            created = await users.CreateUser(ada(username="ada"), timeout=PATIENCE)
            assert created.user.username == "ada"


def value(recording, name):
    (point,) = recording.points(name)
    return point.value


async def is_serving(channel):
    answer = await HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    return answer.status == health_pb2.HealthCheckResponse.SERVING


class TestCallsInFlight:
    """The limit of calls in flight."""

    async def test_calls_above_limit_are_refused_at_once(self):
        opened, recording = asyncio.Event(), Recording()

        async def held(_request, _context):
            await opened.wait()

        async with Service(held, others=LONG, most=3, meter=recording.meter) as service:
            calls = [asyncio.ensure_future(service.call()) for _ in range(3)]
            await eventually(lambda: service.drain.in_flight == 3)
            said = await refused(service.call())
            assert (said.code, said.reason) == (StatusCode.RESOURCE_EXHAUSTED, "SERVER_BUSY")
            assert said.retry_seconds
            assert value(recording, "tamatar.call.count") == 3

            healthy = asyncio.ensure_future(service.call(service="grpc.health.v1.Health"))
            await eventually(lambda: service.drain.in_flight == 4)
            opened.set()
            assert await asyncio.gather(healthy, *calls) == [b""] * 4
            assert await service.call() == b""

        assert value(recording, "tamatar.call.count") == 0
        assert value(recording, "tamatar.call.max") == 3
        assert value(recording, "tamatar.call.refused") == 1

    async def test_full_server_refuses_before_decoding_and_stays_healthy(self, settings, database):
        long = dict.fromkeys(("call_deadline", "lock_timeout", "statement_timeout"), LONG)
        few = changed(settings, calls_in_flight=2, **long)
        async with run_service(few) as service, channel_to(service) as channel:
            users = UserServiceStub(channel)
            async with database.transaction() as tx:
                await tx.connection.execute(text("LOCK TABLE users"))
                calls = [
                    asyncio.ensure_future(users.GetUserStats(pb.GetUserStatsRequest()))
                    for _ in range(2)
                ]
                await eventually(lambda: service.components.drain.in_flight == 2)
                broken = channel.unary_unary("/tamatar.auth.v1.UserService/GetUser")(b"\xff")
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await broken
                assert read_refusal(raised.value).reason == "SERVER_BUSY"
                await eventually(lambda: is_serving(channel))
            await asyncio.gather(*calls)

    async def test_open_streams_leave_room_for_calls(self, settings, database):
        one = changed(settings, calls_in_flight=1)
        async with run_service(one) as service, channel_to(service) as channel:
            watches = [HealthStub(channel).Watch(health_pb2.HealthCheckRequest()) for _ in range(3)]
            for watch in watches:
                await watch.read()
            assert service.components.drain.in_flight == 3

            await UserServiceStub(channel).GetUserStats(pb.GetUserStatsRequest())

            for watch in watches:
                watch.cancel()
