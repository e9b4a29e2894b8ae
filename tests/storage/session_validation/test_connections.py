"""Reserved connections: lent one by one, reused, replaced when they are dead, old or in doubt."""

import asyncio
from datetime import timedelta

import psycopg
import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, bindparam, literal, select, text

from tamatar_auth.errors import ServiceStopping
from tamatar_auth.storage.driver.connect import is_dead
from tamatar_auth.storage.instrumentation.queries import QueryWatch
from tamatar_auth.storage.session_validation import connections as module
from tamatar_auth.storage.session_validation.connections import ReservedConnections
from tests.support.telemetry_capture import Recording


async def pid(reserved):
    async with reserved.lend() as connection:
        return connection.info.backend_pid


async def ask(connection, query):
    return (await (await connection.execute(query)).fetchone())[0]


async def test_a_connection_that_came_back_is_lent_again(reserved):
    first = await pid(reserved)

    assert await pid(reserved) == first


async def test_those_lent_at_once_are_several(reserved):
    async with reserved.lend() as one, reserved.lend() as other:
        assert one.info.backend_pid != other.info.backend_pid


async def test_its_statements_are_transactions_of_their_own_and_planned_once(reserved, settings):
    limit = f"{settings.statement_timeout.total_seconds():g}s"
    async with reserved.lend() as connection:
        assert connection.autocommit
        assert await ask(connection, "SHOW plan_cache_mode") == "force_generic_plan"
        assert await ask(connection, "SHOW enable_seqscan") == "off"
        assert await ask(connection, "SHOW statement_timeout") == limit


async def test_one_that_the_server_closed_is_replaced(reserved):
    async with reserved.lend() as other:
        first = await pid(reserved)
        await ask(other, f"SELECT pg_terminate_backend({first}, 5000)")

        assert await pid(reserved) != first


async def test_one_whose_statement_failed_is_closed(reserved):
    with pytest.raises(psycopg.DataError):
        async with reserved.lend() as connection:
            await connection.execute("SELECT 1 / 0")

    assert connection.closed


async def test_one_whose_statement_was_cancelled_is_not_lent_again(reserved):
    async with reserved.lend() as connection:
        first = connection.info.backend_pid
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2), reserved.lend() as again:
            await again.execute("SELECT pg_sleep(60)")

    assert again is connection
    assert await pid(reserved) != first


async def test_an_old_one_is_replaced(settings):
    young = settings.model_copy(update={"pool_recycle": timedelta(0)})
    reserved = ReservedConnections(young, QueryWatch(60, None, None), 8)
    first = await pid(reserved)

    assert await pid(reserved) != first
    await reserved.close()


async def test_closing_closes_those_that_rest_and_those_that_come_back(reserved):
    async with reserved.lend() as lent:
        async with reserved.lend() as resting:
            pass
        await reserved.close()
        assert resting.closed
        assert not lent.closed

    assert lent.closed


async def test_it_is_filled_before_the_first_call(reserved):
    await reserved.fill()

    async with reserved.lend() as connection:
        assert not is_dead(connection)
        assert connection.info.backend_pid == (await ask(connection, "SELECT pg_backend_pid()"))


async def test_a_database_that_is_away_is_told_when_one_is_lent(settings):
    away = settings.with_database("postgresql://127.0.0.1:1/x")
    reserved = ReservedConnections(away, QueryWatch(60, None, None), 8)

    await reserved.fill()
    with pytest.raises(psycopg.OperationalError):
        await pid(reserved)


async def test_rows_are_tuples_and_values_are_given_each_time(reserved):
    statement = reserved.statement(select(literal("a"), bindparam("number", type_=Integer) + 1))
    async with reserved.lend() as connection:
        assert await statement.rows(connection, number=1) == [("a", 2)]
        assert await statement.rows(connection, number=2) == [("a", 3)]


async def test_a_statement_whose_columns_changed_is_prepared_anew(reserved, database):
    pair = Table("pair", MetaData(), Column("word", String), Column("number", Integer))
    statement = reserved.statement(select(pair).where(pair.c.number < bindparam("most")))
    async with database.transaction() as tx:
        await tx.connection.execute(
            text("CREATE TABLE pair AS SELECT 'a'::varchar(9) word, 1 number")
        )
    async with reserved.lend() as connection:
        assert await statement.rows(connection, most=2) == [("a", 1)]
        async with database.transaction() as tx:
            await tx.connection.execute(text("ALTER TABLE pair ALTER word TYPE varchar(20)"))
        assert await statement.rows(connection, most=2) == [("a", 1)]
        await connection.execute("DEALLOCATE ALL")
        assert await statement.rows(connection, most=1) == []


async def test_statements_count_in_the_metrics_of_statements(settings):
    recording = Recording()
    reserved = ReservedConnections(settings, QueryWatch(60, None, recording.meter), 8)
    statement = reserved.statement(select(literal(1) / bindparam("divisor", type_=Integer)))
    async with reserved.lend() as connection:
        await statement.rows(connection, divisor=1)
    with pytest.raises(psycopg.DataError):
        async with reserved.lend() as connection:
            await statement.rows(connection, divisor=0)

    points = recording.points("db.client.operation.duration")
    assert [point.attributes.get("error.type") for point in points] == [None, "22012"]
    await reserved.close()


async def test_they_are_counted(reserved):
    assert reserved.count() == (0, 0, 8)

    async with reserved.lend():
        async with reserved.lend():
            pass
        assert reserved.count() == (1, 1, 8)
        with pytest.raises(psycopg.DataError):
            async with reserved.lend() as connection:
                await connection.execute("SELECT 1 / 0")

    assert reserved.count() == (0, 1, 8)


async def plan(connection):
    cursor = await connection.execute("EXPLAIN (COSTS OFF) EXECUTE found")
    return str(await cursor.fetchall())


async def test_plans_are_made_anew_from_time_to_time(reserved, monkeypatch):
    async with reserved.lend() as connection:
        await connection.execute("PREPARE found AS SELECT 1 FROM pg_class WHERE relname = 'x'")
        assert "Index" in await plan(connection)
        for setting in ("enable_seqscan = on", "enable_indexscan = off"):
            await connection.execute(f"SET {setting}")
        await connection.execute("SET enable_indexonlyscan = off")
    async with reserved.lend() as connection:
        assert "Index" in await plan(connection)

    monkeypatch.setattr(module, "PLANS_LAST", -1.0)
    async with reserved.lend() as connection:
        assert "Seq Scan" in await plan(connection)


async def test_nothing_is_lent_after_the_end(reserved):
    await reserved.close()

    with pytest.raises(ServiceStopping):
        await pid(reserved)


async def test_those_that_nobody_needs_any_more_are_closed(reserved, monkeypatch):
    async with reserved.lend() as needed:
        async with reserved.lend() as spare, reserved.lend() as another:
            pass
        assert reserved.count() == (1, 2, 8)
        monkeypatch.setattr(module, "LONGEST_REST", 0.0)

    assert reserved.count() == (0, 1, 8)
    assert spare.closed
    assert another.closed
    assert not needed.closed
