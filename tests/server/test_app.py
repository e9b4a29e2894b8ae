"""The server and its database: lost, recovered, not migrated; calls in flight at the stop."""

import asyncio
import contextlib
import os
import signal
import socket

import grpc
import psycopg
import pytest
import structlog
from grpc import StatusCode
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from sqlalchemy import event, text

from tamatar.auth.v1 import user_service_pb2 as pb
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.embedded.postgres import EmbeddedPostgres
from tamatar_auth.errors import ServerBusy
from tamatar_auth.migrator.migrations import Migrations
from tamatar_auth.observability.telemetry import Telemetry
from tamatar_auth.server import database_monitor
from tamatar_auth.server.app import run_service
from tamatar_auth.server.ports import StartError
from tamatar_auth.storage.driver import limits
from tamatar_auth.storage.session_validation.validator import MAX_CONNECTIONS
from tests.support.calls import ada, refusal, refused
from tests.support.settings import changed
from tests.support.telemetry_capture import Recording
from tests.support.waiting import eventually, lock_is_waited_for

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def own_postgres(tmp_path):
    """A server that a test may stop."""
    with EmbeddedPostgres(tmp_path / "postgres", settings={"fsync": "off"}) as postgres:
        Migrations(postgres.url()).upgrade()
        yield postgres


async def status_of(channel, service=""):
    answer = await HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
    return answer.status


class TestStop:
    """Calls and streams of a server that stops."""

    async def test_stop_changes_checks_of_health_and_ends_watches(self, settings):
        async with run_service(settings) as service:
            channel = grpc.aio.insecure_channel(str(service.addresses[0]))
            watch = HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == SERVING
            await service.components.health.enter_graceful_shutdown()
            assert await is_not_serving(channel)
            stopping = asyncio.create_task(service.stop())
            assert await refusal(watch.read()) == (StatusCode.UNAVAILABLE, "SERVICE_STOPPING")
            await stopping
            await channel.close()

    async def test_stream_after_end_of_streams_is_refused(self, settings):
        async with run_service(settings) as service, channel_to(service) as channel:
            service.components.drain.end_streams()
            watch = HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert await refusal(read_on(watch)) == (StatusCode.UNAVAILABLE, "SERVICE_STOPPING")

    async def test_second_server_on_same_port_is_refused(self, settings, service):
        taken = changed(settings, listen=tuple(service.addresses))

        with pytest.raises(StartError, match=str(service.addresses[0])):
            async with run_service(taken):
                pass


def channel_to(service):
    return grpc.aio.insecure_channel(str(service.addresses[0]))


async def read_on(watch):
    """Read until the stream ends."""
    while await watch.read() is not grpc.aio.EOF:
        pass
    raise AssertionError("the stream ended well")


async def wait_for_status(watch, status):
    """Read until a status arrives; on a slow machine another one may come before."""
    while (await watch.read()).status != status:
        pass


async def is_not_serving(channel):
    return await status_of(channel) == NOT_SERVING


async def is_serving(channel):
    return await status_of(channel) == SERVING


async def is_answered(users):
    with contextlib.suppress(grpc.aio.AioRpcError):
        await users.GetUserStats(pb.GetUserStatsRequest())
        return True
    return False


async def said(logs, words):
    return any(words in entry.get("why", "") for entry in logs)


async def is_closed(address):
    with socket.socket() as probe:
        return probe.connect_ex((address.host, address.port)) != 0


class held_connections:  # noqa: N801 - reads as a statement
    """Holds connections of a pool."""

    def __init__(self, database, number):
        self._database, self._number = database, number

    async def __aenter__(self):
        self._held = contextlib.AsyncExitStack()
        for _ in range(self._number):
            await eventually(self._hold)

    async def _hold(self):
        with contextlib.suppress(ServerBusy):  # the readiness check has one for a moment
            return await self._held.enter_async_context(self._database.read())

    async def __aexit__(self, *_):
        await self._held.aclose()


class TestDatabase:
    """A database that is lost, exhausted or not migrated."""

    @pytest.mark.parametrize("way", ["stop", "kill"])
    async def test_lost_database_is_unavailable_until_it_returns(self, settings, own_postgres, way):
        mine = settings.with_database(own_postgres.url())
        async with run_service(mine) as service, channel_to(service) as channel:
            users = UserServiceStub(channel)
            await users.CreateUser(ada())
            watch = HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == SERVING

            await asyncio.to_thread(getattr(own_postgres, way))
            for _ in range(3):
                said = await refused(users.GetUser(pb.GetUserRequest(email="ada@example.com")))
                assert (said.code, said.reason) == (StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
                assert said.retry_seconds
            assert (await watch.read()).status == NOT_SERVING
            assert await status_of(channel, "tamatar.auth.v1.UserService") == NOT_SERVING

            await asyncio.to_thread(own_postgres.start)
            assert (await watch.read()).status == SERVING
            found = await users.GetUser(pb.GetUserRequest(email="ada@example.com"))
            assert found.user.email == "ada@example.com"
            watch.cancel()

    async def test_health_check_does_not_wait_for_stuck_connections(
        self, settings, own_postgres, monkeypatch
    ):
        monkeypatch.setattr(database_monitor, "CHECK_TIMEOUT", 1.5)
        mine = settings.with_database(own_postgres.url())
        ours = "SELECT pid FROM pg_stat_activity WHERE application_name = %s"
        async with run_service(mine) as service, channel_to(service) as channel:
            watch = HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            await wait_for_status(watch, SERVING)
            with psycopg.connect(own_postgres.url()) as connection:
                pids = [pid for (pid,) in connection.execute(ours, ["tamatar-auth"])]
            assert pids
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            try:
                await wait_for_status(watch, NOT_SERVING)
                await wait_for_status(watch, SERVING)
            finally:
                for pid in pids:
                    os.kill(pid, signal.SIGCONT)
            watch.cancel()

    async def test_connections_that_died_in_pool_fail_no_call(self, users, database, service):
        await asyncio.gather(*(users.GetUserStats(pb.GetUserStatsRequest()) for _ in range(5)))
        async with database.transaction() as tx:
            await tx.connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )

        answers = [users.GetUserStats(pb.GetUserStatsRequest()) for _ in range(5)]
        assert len(await asyncio.gather(*answers)) == 5

    async def test_connections_that_die_when_opened_are_unavailable(self, settings, database):
        async with run_service(settings) as service, channel_to(service) as channel:

            def end(connection, _record):
                connection.driver_connection.pgconn.finish()

            # A check that found its own connection slow has opened one in the pool of the calls.
            monitor = service.components.database_monitor
            for engine in (service.database.engine, monitor._own.engine):
                event.listen(engine.sync_engine, "connect", end)
                await engine.dispose()
            call = UserServiceStub(channel).GetUserStats(pb.GetUserStatsRequest())
            said = await refused(call)
            await eventually(lambda: is_not_serving(channel))
            assert not any(task.done() for task in service.background_tasks)

        assert (said.code, said.reason) == (StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")

    async def test_exhausted_pool_is_busy_but_still_serving(self, settings, database, monkeypatch):
        monkeypatch.setattr(limits, "POOL_WAIT", 1.0)
        async with run_service(settings) as service, channel_to(service) as channel:
            users = UserServiceStub(channel)
            async with held_connections(service.database, settings.database.pool_size):
                said = await refused(users.GetUserStats(pb.GetUserStatsRequest()))
                assert (said.code, said.reason) == (StatusCode.RESOURCE_EXHAUSTED, "SERVER_BUSY")
                assert said.retry_seconds
                await service.components.database_monitor.check()
                await eventually(lambda: is_serving(channel))

            await eventually(lambda: is_answered(users))

    async def test_database_without_tables_is_not_served(self, settings, empty_database):
        mine = settings.with_database(empty_database)
        with structlog.testing.capture_logs() as logs:
            async with run_service(mine) as service, channel_to(service) as channel:
                assert await status_of(channel) == NOT_SERVING
                await asyncio.to_thread(Migrations(empty_database).upgrade, "0001")
                await eventually(lambda: said(logs, "0001"))
                assert await status_of(channel) == NOT_SERVING
                await asyncio.to_thread(Migrations(empty_database).upgrade)
                await eventually(lambda: is_serving(channel))

        # Each revision may be reported; which ones depends on timing.
        lines = [entry["why"] for entry in logs if entry["event"] == "not serving"]
        assert "the tables of this release are missing" in lines[0]
        assert all("tamatar-auth migrate up" in line for line in lines)

    async def test_tables_of_later_release_are_served(self, settings, migrated_database):
        async with run_service(settings.with_database(migrated_database)) as service:
            async with service.database.transaction() as tx:
                newer = text("UPDATE tamatar_auth_version SET version_num = '9999'")
                await tx.connection.execute(newer)
            await service.components.database_monitor.check()
            async with channel_to(service) as channel:
                assert await status_of(channel) == SERVING

    async def test_missing_table_stops_serving(self, settings, migrated_database):
        with structlog.testing.capture_logs() as logs:
            async with run_service(settings.with_database(migrated_database)) as service:
                async with service.database.transaction() as tx:
                    await tx.connection.execute(text("DROP TABLE replaced_tokens"))
                await service.components.database_monitor.check()
                async with channel_to(service) as channel:
                    assert await status_of(channel) == NOT_SERVING

        assert await said(logs, "the tables replaced_tokens are missing")

    async def test_stop_finishes_call_in_flight_before_pool_closes(self, settings, database):
        async with run_service(settings) as service:
            channel = grpc.aio.insecure_channel(str(service.addresses[0]))
            users = UserServiceStub(channel)
            async with database.transaction() as tx:
                await tx.connection.execute(
                    text(
                        "INSERT INTO users (id, email)"
                        " VALUES (gen_random_uuid(), 'ada@example.com')"
                    )
                )
                call = asyncio.ensure_future(users.CreateUser(ada(password="")))
                await eventually(lambda: lock_is_waited_for(database))
                stopping = asyncio.create_task(service.stop())
                await eventually(lambda: is_closed(service.addresses[0]))
                await tx.connection.rollback()

            created = await call
            await stopping
            await channel.close()
        async with database.read() as db:
            assert str((await db.users.get_by_email("ada@example.com")).id) == created.user.user_id

    async def test_connections_of_both_pools_are_counted(self, settings, database):
        recording = Recording()
        async with run_service(settings, Telemetry(meter=recording.meter)) as service:
            async with service.database.read():
                counted = recording.points("db.client.connection.count")
            most = recording.points("db.client.connection.max")

        name, state = "db.client.connection.pool.name", "db.client.connection.state"
        used = {at.attributes[name]: at.value for at in counted if at.attributes[state] == "used"}
        assert used == {"calls": 1, "validations": 0}
        assert {at.attributes[name]: at.value for at in most} == {
            "calls": settings.database.pool_size,
            "validations": MAX_CONNECTIONS,
        }
