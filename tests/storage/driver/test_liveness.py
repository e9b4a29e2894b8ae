"""A silent server is marked dead: its waiting calls fail, its connections are dropped."""

import asyncio
import contextlib
from datetime import timedelta

import psycopg
import pytest
from sqlalchemy import exc, text

from tamatar_auth.embedded.postgres import EmbeddedPostgres
from tamatar_auth.errors.storage import StorageUnavailable
from tamatar_auth.server import database_monitor
from tamatar_auth.servicers.health import HealthServicer
from tamatar_auth.storage import sqlstates
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.driver import connect as connect_module
from tamatar_auth.storage.driver import connection as connection_module
from tamatar_auth.storage.driver import orphaned_statements as orphaned_module
from tamatar_auth.storage.driver.connect import connector, is_dead
from tamatar_auth.storage.driver.liveness import SilenceLimits, SilentServerError
from tamatar_auth.storage.driver.orphaned_statements import OrphanedStatements
from tamatar_auth.storage.engine import create_engine
from tamatar_auth.storage.instrumentation.queries import StatementObserver
from tamatar_auth.storage.session_validation.connections import DedicatedPool
from tests.support.frozen_postgres import frozen
from tests.support.settings import changed
from tests.support.waiting import PATIENCE, eventually

SHORT = 0.1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The data directory of the server of `mine`."""
    return tmp_path_factory.mktemp("silence")


@pytest.fixture(scope="module")
def mine(settings, folder):
    """Settings for a server that a test may freeze."""
    with EmbeddedPostgres(folder, settings={"fsync": "off"}) as postgres:
        yield settings.with_database(postgres.url())


@pytest.fixture
async def orphaned(monkeypatch):
    monkeypatch.setattr(orphaned_module, "CANCEL_TIMEOUT", 0.2)
    monkeypatch.setattr(connection_module, "SUSPECT_AFTER", SHORT)
    orphaned = OrphanedStatements()
    yield orphaned
    await orphaned.close()


@pytest.fixture
def opened(mine, orphaned):
    """Open connections that are closed at the end."""

    @contextlib.asynccontextmanager
    async def opened(count, **arguments):
        unbounded = changed(mine, statement_timeout=timedelta(0))
        connect = connector(unbounded.database, orphaned, autocommit=True, **arguments)
        connections = [await connect() for _ in range(count)]
        try:
            yield connections
        finally:
            for connection in connections:
                await connection.close()

    return opened


async def leave(connection):
    """Start a statement, and stop waiting before it has a result."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2 * SHORT):
            await connection.execute("SELECT pg_sleep(60)")


@pytest.fixture
def hasty(mine, monkeypatch):
    monkeypatch.setattr(connect_module, "TIMEOUT_GRACE", SHORT)
    return changed(mine, statement_timeout=timedelta(seconds=SHORT))


async def drivers_of(database):
    """Return the drivers of two new connections; nothing if opening them took too long."""
    with contextlib.suppress(exc.OperationalError):
        async with database.read() as db, database.read() as other:
            return [
                (await scope.connection.get_raw_connection()).driver_connection
                for scope in (db, other)
            ]
    return []


async def answers(database):
    with contextlib.suppress(exc.OperationalError):
        async with database.read() as db:
            await db.connection.execute(text("SELECT 1"))
            return True
    return False


class TestLiveServer:
    """Delays that are no silence."""

    async def test_statement_on_closed_connection_raises(self, opened, orphaned):
        async with opened(1) as (one,):
            asked = asyncio.ensure_future(one.execute("SELECT pg_sleep(60)"))
            await asyncio.sleep(SHORT)
            one.pgconn.finish()
            with pytest.raises(psycopg.OperationalError):
                await asked

    async def test_server_that_accepts_cancel_request_stays_alive(
        self, opened, orphaned, monkeypatch
    ):
        monkeypatch.setattr(orphaned_module, "CANCEL_TIMEOUT", PATIENCE)
        async with opened(2) as (one, other):
            await leave(one)
            await eventually(lambda: orphaned.cancelled == 1)
            assert not is_dead(other)

    async def test_connection_opened_after_silence_began_is_kept(self, opened, orphaned):
        async with opened(1) as (one,):
            await leave(one)
            async with opened(1) as (later,):
                orphaned.failure_detector.report_silence(one.statement_started_at)
                assert is_dead(one)
                assert not is_dead(later)

    async def test_unread_answer_when_cancelled_is_no_silence(self, opened):
        async with opened(2, cancelled_limit=-1.0) as (one, other):
            task = asyncio.create_task(one.execute("SELECT 1"))
            await asyncio.sleep(0)
            while not connection_module.is_readable(one.fileno()):
                pass  # the delay is this process's, not the server's
            task.cancel()
            await asyncio.wait({task})

            assert not is_dead(other)

    async def test_commit_may_exceed_statement_limit(self, mine, orphaned, folder):
        connection = await connector(mine.database, orphaned)()
        await connection.execute("CREATE TABLE x (id int)")
        connection.limits = SilenceLimits(statement=SHORT)
        with frozen(folder):
            task = asyncio.create_task(connection.commit())
            done, _ = await asyncio.wait({task}, timeout=5 * SHORT)
            assert not done
        await task
        await connection.close()

    async def test_statement_timeout_of_url_disables_silence_limit(self, hasty, orphaned):
        url = f"{hasty.database.url.get_secret_value()}?options=-c%20statement_timeout%3D0"
        connection = await connector(hasty.with_database(url).database, orphaned)()
        await connection.execute("SELECT pg_sleep(0.5)")
        await connection.close()

    async def test_cancel_outside_a_statement_keeps_connection_usable(self, opened):
        async with opened(1) as (connection,):
            await connection.set_autocommit(False)
            await asyncio.sleep(0.02)

            async def change():
                asyncio.current_task().cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await connection.set_autocommit(True)
                    return True
                return False

            assert await change()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.sleep(0)

    async def test_wait_for_notifications_is_no_silence(self, opened):
        async with opened(1) as (connection,):
            await connection.execute("LISTEN something")
            connection.limits = SilenceLimits(statement=SHORT)
            async for _ in connection.notifies(timeout=5 * SHORT):
                raise AssertionError("a notification came")
            connection.limits = SilenceLimits()
            await connection.execute("SELECT 1")

    async def test_server_that_ends_connection_is_not_silent(self, opened):
        async with opened(2) as (one, other):
            with pytest.raises(psycopg.OperationalError):
                await one.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            assert not is_dead(other)


class TestDeadServer:
    """Servers that are marked dead, and their connections."""

    async def test_cancelled_call_marks_silent_server_dead(self, opened, folder):
        async with opened(2, cancelled_limit=SHORT) as (one, other):
            with frozen(folder):
                await leave(one)
                assert is_dead(other)

    async def test_server_that_ignores_cancel_request_is_marked_dead(self, opened, folder):
        async with opened(2) as (one, other):
            with frozen(folder):
                await leave(one)
                assert not is_dead(other)
                await eventually(lambda: is_dead(other))

    async def test_calls_waiting_for_silent_server_fail(self, opened, folder):
        async with opened(2, cancelled_limit=SHORT) as (one, other):
            with frozen(folder):
                waiting = asyncio.create_task(other.execute("SELECT 1"))
                await leave(one)
                with pytest.raises(SilentServerError):
                    async with asyncio.timeout(PATIENCE):
                        await waiting

    async def test_overdue_answer_fails_call_as_unavailable(self, hasty, orphaned, folder):
        database = Database(create_engine(hasty.database, orphaned, pool_size=2), orphaned)
        drivers = await eventually(lambda: drivers_of(database))
        with frozen(folder):
            with pytest.raises(exc.OperationalError) as raised:
                async with database.read() as db:
                    await db.connection.execute(text("SELECT 1"))
            assert raised.value.connection_invalidated
            assert isinstance(sqlstates.to_failure(raised.value), StorageUnavailable)
            assert all(map(is_dead, drivers))
            assert database.pool.in_use == 0
        await eventually(lambda: answers(database))
        await database.close()

    async def test_dedicated_pool_drops_connections_to_silent_server(
        self, mine, orphaned, folder, monkeypatch
    ):
        monkeypatch.setattr(
            "tamatar_auth.storage.session_validation.connections.SUSPECT_AFTER", SHORT
        )
        dedicated_pool = DedicatedPool(
            mine.database, StatementObserver(60, None, None), 8, orphaned
        )
        async with dedicated_pool.acquire(), dedicated_pool.acquire() as latest:
            pass
        with frozen(folder), pytest.raises(TimeoutError):
            async with asyncio.timeout(2 * SHORT), dedicated_pool.acquire() as connection:
                await connection.execute("SELECT 1")
        async with dedicated_pool.acquire() as again:
            assert again.connect_started_at > latest.connect_started_at
        await dedicated_pool.close()

    async def test_database_monitor_marks_silent_server_dead_for_all(
        self, mine, opened, orphaned, folder, monkeypatch
    ):
        monkeypatch.setattr(database_monitor, "SUSPECT_AFTER", SHORT)
        monkeypatch.setattr(database_monitor, "CHECK_TIMEOUT", PATIENCE)
        calls = Database(create_engine(mine.database, orphaned), orphaned)
        monitor = database_monitor.DatabaseMonitor(
            mine.database, calls, HealthServicer([]), "0001", orphaned
        )
        async with opened(1) as (resting,):
            await monitor.check()
            monkeypatch.setattr(database_monitor, "CHECK_TIMEOUT", 2 * SHORT)
            with frozen(folder):
                await monitor.check()
                assert is_dead(resting)
        await monitor.close()
        await calls.close()
