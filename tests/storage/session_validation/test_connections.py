"""Reserved connections: lent one by one, reused, replaced when they are dead, old or in doubt."""

import asyncio
from datetime import timedelta

import psycopg
import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, bindparam, literal, select, text

from tamatar_auth.errors import ServiceStopping
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


async def test_a_connection_that_came_back_is_lent_again(dedicated_pool):
    first = await pid(dedicated_pool)

    assert await pid(dedicated_pool) == first


async def test_those_lent_at_once_are_several(dedicated_pool):
    async with dedicated_pool.acquire() as one, dedicated_pool.acquire() as other:
        assert one.info.backend_pid != other.info.backend_pid


async def test_its_statements_are_transactions_of_their_own_and_planned_once(
    dedicated_pool, settings
):
    limit = f"{settings.statement_timeout.total_seconds():g}s"
    async with dedicated_pool.acquire() as connection:
        assert connection.autocommit
        assert await ask(connection, "SHOW plan_cache_mode") == "force_generic_plan"
        assert await ask(connection, "SHOW enable_seqscan") == "off"
        assert await ask(connection, "SHOW statement_timeout") == limit


async def test_one_that_the_server_closed_is_replaced(dedicated_pool):
    async with dedicated_pool.acquire() as other:
        first = await pid(dedicated_pool)
        await ask(other, f"SELECT pg_terminate_backend({first}, 5000)")

        assert await pid(dedicated_pool) != first


async def test_one_whose_statement_failed_is_closed(dedicated_pool):
    with pytest.raises(psycopg.DataError):
        async with dedicated_pool.acquire() as connection:
            await connection.execute("SELECT 1 / 0")

    assert connection.closed


async def test_one_whose_statement_was_cancelled_is_not_lent_again(dedicated_pool):
    async with dedicated_pool.acquire() as connection:
        first = connection.info.backend_pid
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2), dedicated_pool.acquire() as again:
            await again.execute("SELECT pg_sleep(60)")

    assert again is connection
    assert await pid(dedicated_pool) != first


async def test_an_old_one_is_replaced(settings):
    young = settings.model_copy(update={"pool_recycle": timedelta(0)})
    dedicated_pool = DedicatedPool(young, StatementObserver(60, None, None), 8)
    first = await pid(dedicated_pool)

    assert await pid(dedicated_pool) != first
    await dedicated_pool.close()


async def test_closing_closes_those_that_rest_and_those_that_come_back(dedicated_pool):
    async with dedicated_pool.acquire() as lent:
        async with dedicated_pool.acquire() as resting:
            pass
        await dedicated_pool.close()
        assert resting.closed
        assert not lent.closed

    assert lent.closed


async def test_it_is_filled_before_the_first_call(dedicated_pool):
    await dedicated_pool.warm_up()

    async with dedicated_pool.acquire() as connection:
        assert not is_dead(connection)
        assert connection.info.backend_pid == (await ask(connection, "SELECT pg_backend_pid()"))


async def test_a_database_that_is_away_is_told_when_one_is_lent(settings):
    away = settings.with_database("postgresql://127.0.0.1:1/x")
    dedicated_pool = DedicatedPool(away, StatementObserver(60, None, None), 8)

    await dedicated_pool.warm_up()
    with pytest.raises(psycopg.OperationalError):
        await pid(dedicated_pool)


async def test_rows_are_tuples_and_values_are_given_each_time(dedicated_pool):
    statement = dedicated_pool.statement(
        select(literal("a"), bindparam("number", type_=Integer) + 1)
    )
    async with dedicated_pool.acquire() as connection:
        assert await statement.rows(connection, number=1) == [("a", 2)]
        assert await statement.rows(connection, number=2) == [("a", 3)]


async def test_a_statement_whose_columns_changed_is_prepared_anew(dedicated_pool, database):
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
        await connection.execute("DEALLOCATE ALL")
        assert await statement.rows(connection, most=1) == []


async def test_statements_count_in_the_metrics_of_statements(settings):
    recording = Recording()
    dedicated_pool = DedicatedPool(settings, StatementObserver(60, None, recording.meter), 8)
    statement = dedicated_pool.statement(select(literal(1) / bindparam("divisor", type_=Integer)))
    async with dedicated_pool.acquire() as connection:
        await statement.rows(connection, divisor=1)
    with pytest.raises(psycopg.DataError):
        async with dedicated_pool.acquire() as connection:
            await statement.rows(connection, divisor=0)

    points = recording.points("db.client.operation.duration")
    assert [point.attributes.get("error.type") for point in points] == [None, "22012"]
    await dedicated_pool.close()


async def test_they_are_counted(dedicated_pool):
    assert dedicated_pool.count() == (0, 0, 8)

    async with dedicated_pool.acquire():
        async with dedicated_pool.acquire():
            pass
        assert dedicated_pool.count() == (1, 1, 8)
        with pytest.raises(psycopg.DataError):
            async with dedicated_pool.acquire() as connection:
                await connection.execute("SELECT 1 / 0")

    assert dedicated_pool.count() == (0, 1, 8)


async def plan(connection):
    cursor = await connection.execute("EXPLAIN (COSTS OFF) EXECUTE found")
    return str(await cursor.fetchall())


async def test_plans_are_made_anew_from_time_to_time(dedicated_pool, monkeypatch):
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


async def test_nothing_is_lent_after_the_end(dedicated_pool):
    await dedicated_pool.close()

    with pytest.raises(ServiceStopping):
        await pid(dedicated_pool)


async def test_those_that_nobody_needs_any_more_are_closed(dedicated_pool, monkeypatch):
    async with dedicated_pool.acquire() as needed:
        async with dedicated_pool.acquire() as spare, dedicated_pool.acquire() as another:
            pass
        assert dedicated_pool.count() == (1, 2, 8)
        monkeypatch.setattr(module, "MAX_IDLE_TIME", 0.0)

    assert dedicated_pool.count() == (0, 1, 8)
    assert spare.closed
    assert another.closed
    assert not needed.closed
