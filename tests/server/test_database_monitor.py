"""The health service on a database that rejects writes or connections, or has no tables."""

import asyncio
from urllib.parse import urlsplit

import psycopg
import pytest
import structlog
from grpc import StatusCode
from psycopg import sql
from sqlalchemy import text

from tamatar.auth.v1 import user_service_pb2 as pb
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.embedded.postgres import EmbeddedPostgres
from tamatar_auth.migrator.migrations import Migrations
from tamatar_auth.server.app import run_service
from tests.server.test_app import NOT_SERVING, SERVING, channel_to, is_serving, said, status_of
from tests.support.calls import ada, refusal, sign_in, validate, verify
from tests.support.settings import changed
from tests.support.waiting import eventually

USERS, SESSIONS = "tamatar.auth.v1.UserService", "tamatar.auth.v1.SessionService"
UNAVAILABLE = (StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")


class Controlled:
    """A database whose defaults and connections a test changes."""

    def __init__(self, postgres, url):
        self.url = url
        self._postgres = postgres
        self._name = sql.Identifier(psycopg.conninfo.conninfo_to_dict(url)["dbname"])

    def alter(self, change):
        with psycopg.connect(self._postgres.url(), autocommit=True) as connection:
            connection.execute(sql.SQL("ALTER DATABASE {} " + change).format(self._name))

    def end_connections(self, *kept):
        """End all connections but those of these processes."""
        with psycopg.connect(self._postgres.url(), autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = %s AND pid <> ALL (%s)",
                [self._name.as_string().strip('"'), list(kept)],
            )


@pytest.fixture
def controlled(postgres, migrated_database):
    return Controlled(postgres, migrated_database)


@pytest.fixture
async def served(settings, controlled):
    """A service on that database, and its channel."""
    async with (
        run_service(settings.with_database(controlled.url)) as service,
        channel_to(service) as channel,
    ):
        yield service, channel


READ_ONLY = "SET default_transaction_read_only = on"


async def process_of_monitor(service):
    async with service.components.database_monitor._own.read() as db:
        return (await db.connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()


async def has_status(channel, service, status):
    return await status_of(channel, service) == status


async def signed_in(service, channel):
    """Sign in; return the token."""
    await verify(service.database, (await UserServiceStub(channel).CreateUser(ada())).user)
    return (await SessionServiceStub(channel).CreateSession(sign_in())).session_token


class TestReadOnly:
    """A database that rejects writes."""

    async def test_read_only_database_serves_sessions_but_no_users(self, served, controlled):
        service, channel = served
        token = await signed_in(service, channel)

        await asyncio.to_thread(controlled.alter, READ_ONLY)
        await asyncio.to_thread(controlled.end_connections)
        with structlog.testing.capture_logs() as logs:
            await eventually(lambda: has_status(channel, USERS, NOT_SERVING))
        assert await status_of(channel, SESSIONS) == SERVING
        assert await status_of(channel) == SERVING
        assert await said(logs, "set default_transaction_read_only to off")
        await validate(SessionServiceStub(channel), token)
        create = UserServiceStub(channel).CreateUser(ada(email="b@example.com", password=""))
        assert await refusal(create) == UNAVAILABLE

    async def test_writes_work_once_database_is_writable_again(self, served, controlled):
        service, channel = served
        await asyncio.to_thread(controlled.alter, READ_ONLY)
        await asyncio.to_thread(controlled.end_connections)
        await eventually(lambda: has_status(channel, USERS, NOT_SERVING))
        await service.database.fill_pool()

        await asyncio.to_thread(controlled.alter, "RESET default_transaction_read_only")
        await eventually(lambda: has_status(channel, USERS, SERVING))
        users = UserServiceStub(channel)
        await users.CreateUser(ada(password=""))

    async def test_refused_write_makes_monitor_open_a_connection(self, served, controlled):
        service, channel = served
        await asyncio.to_thread(controlled.alter, READ_ONLY)
        await asyncio.to_thread(controlled.end_connections, await process_of_monitor(service))
        assert await status_of(channel, USERS) == SERVING

        users = UserServiceStub(channel)
        assert await refusal(users.CreateUser(ada(password=""))) == UNAVAILABLE
        await eventually(lambda: has_status(channel, USERS, NOT_SERVING))

    async def test_standby_serves_sessions_but_no_users(self, settings, tmp_path):
        with EmbeddedPostgres(tmp_path, settings={"fsync": "off"}) as postgres:
            Migrations(postgres.url()).upgrade()
            await asyncio.to_thread(postgres.stop)
            (data,) = tmp_path.glob("*/data")
            (data / "standby.signal").touch(0o666)
            await asyncio.to_thread(postgres.start)
            mine = settings.with_database(postgres.url())
            with structlog.testing.capture_logs() as logs:
                async with run_service(mine) as service, channel_to(service) as channel:
                    await eventually(lambda: has_status(channel, SESSIONS, SERVING))
                    assert await status_of(channel, USERS) == NOT_SERVING
            assert await said(logs, "the server is a standby")


class TestConnections:
    """A server that refuses further connections."""

    async def test_health_without_own_connection_uses_one_of_calls(self, served, controlled):
        service, channel = served
        await eventually(lambda: is_serving(channel))
        await service.database.fill_pool()
        monitor = await process_of_monitor(service)
        with psycopg.connect(controlled.url, autocommit=True) as connection:
            await asyncio.to_thread(controlled.alter, "ALLOW_CONNECTIONS false")
            connection.execute("SELECT pg_terminate_backend(%s, 5000)", [monitor])

            await service.components.database_monitor.check()
            assert await is_serving(channel)
            await UserServiceStub(channel).GetUserStats(pb.GetUserStatsRequest())
            await asyncio.to_thread(controlled.end_connections)
            await eventually(lambda: has_status(channel, "", NOT_SERVING))

        await asyncio.to_thread(controlled.alter, "ALLOW_CONNECTIONS true")
        await eventually(lambda: is_serving(channel))

    async def test_busy_pool_without_own_connection_stays_serving(self, impatient, controlled):
        mine = changed(impatient.with_database(controlled.url), pool_size=1)
        async with run_service(mine) as service, channel_to(service) as channel:
            await eventually(lambda: is_serving(channel))
            monitor = await process_of_monitor(service)
            async with service.database.read() as call:
                await asyncio.to_thread(controlled.alter, "ALLOW_CONNECTIONS false")
                end = text(f"SELECT pg_terminate_backend({monitor}, 5000)")
                await call.connection.execute(end)

                await service.components.database_monitor.check()
                assert await is_serving(channel)

    async def test_read_only_database_that_is_full_serves_sessions(self, served, controlled):
        service, channel = served
        await asyncio.to_thread(controlled.alter, READ_ONLY)
        await asyncio.to_thread(controlled.end_connections)
        await eventually(lambda: has_status(channel, USERS, NOT_SERVING))
        await service.database.fill_pool()

        await asyncio.to_thread(controlled.alter, "ALLOW_CONNECTIONS false")
        for _ in range(2):
            await service.components.database_monitor.check()
            assert await status_of(channel, SESSIONS) == SERVING

    async def test_wrong_password_is_named_in_log(self, settings, migrated_database):
        url = urlsplit(migrated_database)
        wrong = f"{url.username}:not-the-password@{url.hostname}:{url.port}"
        mine = settings.with_database(url._replace(netloc=wrong).geturl())
        with structlog.testing.capture_logs() as logs:
            async with run_service(mine):
                await eventually(lambda: said(logs, "password authentication failed for user"))
        assert "not-the-password" not in str(logs)


class TestWithoutTables:
    """A database before its first migration."""

    async def test_checks_cause_no_error_in_log_of_postgresql(self, settings, tmp_path):
        with EmbeddedPostgres(
            tmp_path, settings={"fsync": "off", "log_min_messages": "error"}
        ) as postgres:
            async with run_service(settings.with_database(postgres.url())) as service:
                for _ in range(3):
                    await service.components.database_monitor.check()
                async with channel_to(service) as channel:
                    assert await status_of(channel) == NOT_SERVING
            assert "ERROR" not in (tmp_path / "postgres.log").read_text()
