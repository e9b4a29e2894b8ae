"""Dedicated connections: lent one by one, reused, replaced when dead, old or in doubt."""

import asyncio

import psycopg
import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, bindparam, literal, select, text

from tamatar_auth.errors import ServiceStopping
from tamatar_auth.storage.driver import limits
from tamatar_auth.storage.driver.connect import is_dead
from tamatar_auth.storage.instrumentation.queries import StatementObserver
from tamatar_auth.storage.session_validation import connections as module
from tamatar_auth.storage.session_validation.connections import DedicatedPool
from tests.support.telemetry_capture import Recording


async def pid(dedicated_pool):
    async with dedicated_pool.acquire() as connection:
        return connection.info.backend_pid


async def ask(connection, query):
    return (await (await connection.execute(query)).fetchone())[0]


async def plan(connection):
    cursor = await connection.execute("EXPLAIN (COSTS OFF) EXECUTE found")
    return str(await cursor.fetchall())


class TestStatements:
    """Statements of the pool, and their plans."""

    async def test_statement_rows_are_tuples_of_current_values(self, dedicated_pool):
        statement = dedicated_pool.statement(
            select(literal("a"), bindparam("number", type_=Integer) + 1)
        )
        async with dedicated_pool.acquire() as connection:
            assert await statement.rows(connection, number=1) == [("a", 2)]
            assert await statement.rows(connection, number=2) == [("a", 3)]

    async def test_statement_after_column_change_is_prepared_again(self, dedicated_pool, database):
        pair = Table("pair", MetaData(), Column("word", String), Column("number", Integer))
        statement = dedicated_pool.statement(select(pair).where(pair.c.number < bindparam("most")))
        async with database.transaction() as tx:
            await tx.connection.execute(
                text("CREATE TABLE pair AS SELECT 'a'::varchar(9) word, 1 number")
            )
        async with dedicated_pool.acquire() as connection:
            assert await statement.rows(connection, most=2) == [("a", 1)]
            async with database.transaction() as tx:
                await tx.connection.execute(text("ALTER TABLE pair ALTER word TYPE varchar(20)"))
            assert await statement.rows(connection, most=2) == [("a", 1)]
            connection.pgconn.exec_(b"DEALLOCATE ALL")  # psycopg does not notice
            assert await statement.rows(connection, most=1) == []

    async def test_dedicated_statements_are_counted_in_metrics(self, settings):
        recording = Recording()
        dedicated_pool = DedicatedPool(
            settings.database, StatementObserver(60, None, recording.meter), 8
        )
        statement = dedicated_pool.statement(
            select(literal(1) / bindparam("divisor", type_=Integer))
        )
        async with dedicated_pool.acquire() as connection:
            await statement.rows(connection, divisor=1)
        with pytest.raises(psycopg.DataError):
            async with dedicated_pool.acquire() as connection:
                await statement.rows(connection, divisor=0)

        points = recording.points("db.client.operation.duration")
        assert [point.attributes.get("error.type") for point in points] == [None, "22012"]
        await dedicated_pool.close()

    async def test_renewal_of_plans_is_counted_in_metrics(self, settings, monkeypatch):
        monkeypatch.setattr(module, "PLAN_LIFETIME", -1.0)
        recording = Recording()
        observer = StatementObserver(60, None, recording.meter)
        dedicated_pool = DedicatedPool(settings.database, observer, 8)
        await dedicated_pool.warm_up()
        await dedicated_pool.close()

        (point,) = recording.points("db.client.operation.duration")
        assert point.attributes["db.operation.name"] == "DISCARD"

    async def test_plans_are_renewed_after_plan_lifetime(self, dedicated_pool, monkeypatch):
        async with dedicated_pool.acquire() as connection:
            await connection.execute("PREPARE found AS SELECT 1 FROM pg_class WHERE relname = 'x'")
            assert "Index" in await plan(connection)
            for setting in ("enable_seqscan = on", "enable_indexscan = off"):
                await connection.execute(f"SET {setting}")
            await connection.execute("SET enable_indexonlyscan = off")
        async with dedicated_pool.acquire() as connection:
            assert "Index" in await plan(connection)

        monkeypatch.setattr(module, "PLAN_LIFETIME", -1.0)
        async with dedicated_pool.acquire() as connection:
            assert "Seq Scan" in await plan(connection)


class TestPool:
    """Connections that are lent, replaced and closed."""

    async def test_returned_connection_is_lent_again(self, dedicated_pool):
        first = await pid(dedicated_pool)

        assert await pid(dedicated_pool) == first

    async def test_connections_lent_at_once_are_different(self, dedicated_pool):
        async with dedicated_pool.acquire() as one, dedicated_pool.acquire() as other:
            assert one.info.backend_pid != other.info.backend_pid

    async def test_connection_is_autocommit_with_generic_plans(self, dedicated_pool, settings):
        limit = f"{settings.database.statement_timeout.total_seconds():g}s"
        async with dedicated_pool.acquire() as connection:
            assert connection.autocommit
            assert await ask(connection, "SHOW plan_cache_mode") == "force_generic_plan"
            assert await ask(connection, "SHOW enable_seqscan") == "off"
            assert await ask(connection, "SHOW statement_timeout") == limit

    async def test_connection_ended_by_server_is_replaced(self, dedicated_pool):
        async with dedicated_pool.acquire() as other:
            first = await pid(dedicated_pool)
            await ask(other, f"SELECT pg_terminate_backend({first}, 5000)")

            assert await pid(dedicated_pool) != first

    async def test_connection_after_failed_statement_is_closed(self, dedicated_pool):
        with pytest.raises(psycopg.DataError):
            async with dedicated_pool.acquire() as connection:
                await connection.execute("SELECT 1 / 0")

        assert connection.closed

    async def test_connection_after_cancelled_statement_is_replaced(self, dedicated_pool):
        async with dedicated_pool.acquire() as connection:
            first = connection.info.backend_pid
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), dedicated_pool.acquire() as again:
                await again.execute("SELECT pg_sleep(60)")

        assert again is connection
        assert await pid(dedicated_pool) != first

    async def test_connection_older_than_maximum_is_renewed(self, settings, monkeypatch):
        monkeypatch.setattr(limits, "MAX_CONNECTION_AGE", 0)
        dedicated_pool = DedicatedPool(settings.database, StatementObserver(60, None, None), 8)
        first = await pid(dedicated_pool)

        assert await pid(dedicated_pool) != first
        await dedicated_pool.close()

    async def test_close_closes_idle_and_returned_connections(self, dedicated_pool):
        async with dedicated_pool.acquire() as lent:
            async with dedicated_pool.acquire() as resting:
                pass
            await dedicated_pool.close()
            assert resting.closed
            assert not lent.closed

        assert lent.closed

    async def test_warm_up_opens_a_connection(self, dedicated_pool):
        await dedicated_pool.warm_up()

        async with dedicated_pool.acquire() as connection:
            assert not is_dead(connection)
            assert connection.info.backend_pid == (await ask(connection, "SELECT pg_backend_pid()"))

    async def test_warm_up_without_database_fails_at_first_acquire(self, settings):
        away = settings.with_database("postgresql://127.0.0.1:1/x")
        dedicated_pool = DedicatedPool(away.database, StatementObserver(60, None, None), 8)

        await dedicated_pool.warm_up()
        with pytest.raises(psycopg.OperationalError):
            await pid(dedicated_pool)

    async def test_count_returns_used_idle_and_maximum(self, dedicated_pool):
        assert dedicated_pool.count() == (0, 0, 8)

        async with dedicated_pool.acquire():
            async with dedicated_pool.acquire():
                pass
            assert dedicated_pool.count() == (1, 1, 8)
            with pytest.raises(psycopg.DataError):
                async with dedicated_pool.acquire() as connection:
                    await connection.execute("SELECT 1 / 0")

        assert dedicated_pool.count() == (0, 1, 8)

    async def test_acquire_after_close_raises(self, dedicated_pool):
        await dedicated_pool.close()

        with pytest.raises(ServiceStopping):
            await pid(dedicated_pool)

    async def test_surplus_idle_connections_are_closed(self, dedicated_pool, monkeypatch):
        async with dedicated_pool.acquire() as needed:
            async with dedicated_pool.acquire() as spare, dedicated_pool.acquire() as another:
                pass
            assert dedicated_pool.count() == (1, 2, 8)
            monkeypatch.setattr(module, "MAX_IDLE_TIME", 0.0)

        assert dedicated_pool.count() == (0, 1, 8)
        assert spare.closed
        assert another.closed
        assert not needed.closed
