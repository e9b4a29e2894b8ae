"""DiagnosticsRepository: what PostgreSQL reports of itself."""

import os
from urllib.parse import urlsplit

import psycopg
import pytest
from sqlalchemy import text

from tamatar_auth.errors.storage import QueryStatisticsMissing
from tamatar_auth.migrator.migrations import head_revision
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.engine import create_engine
from tamatar_auth.storage.readiness import check_readiness
from tamatar_auth.storage.tables import metadata


@pytest.fixture
async def elsewhere(settings, empty_database):
    """A database without tables or extensions."""
    elsewhere = Database(create_engine(settings.with_database(empty_database).database))
    yield elsewhere
    await elsewhere.close()


async def test_connections_counts_those_of_this_database(elsewhere, empty_database):
    async with elsewhere.read() as db:
        before = await db.diagnostics.connections()
        with psycopg.connect(empty_database, autocommit=True) as idle:
            idle.execute("SELECT 1")
            after = await db.diagnostics.connections()

    assert before == (1, 1, 0, 0)
    assert after == (2, 1, 1, 0)


@pytest.fixture
def limited_url(empty_database):
    """The URL of the empty database, with a role that has no rights."""
    role, url = f"limited_{os.getpid()}", urlsplit(empty_database)
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'limited'")
        yield url._replace(netloc=f"{role}:limited@{url.hostname}:{url.port}").geturl()
        connection.execute(f"DROP ROLE {role}")


async def test_connections_counts_what_role_may_not_see(settings, limited_url):
    limited = Database(create_engine(settings.with_database(limited_url).database))
    async with limited.read() as db:
        assert await db.diagnostics.connections() == (2, 1, 0, 1)
    await limited.close()


async def test_server_version_is_that_of_server(database):
    async with database.read() as db:
        version = await db.diagnostics.server_version()
        number = int((await db.connection.execute(text("SHOW server_version_num"))).scalar_one())

    assert version.partition(".")[0] == str(number // 10000)


async def test_schema_revision_is_that_of_tables_or_none(database, elsewhere):
    async with database.read() as db:
        assert await db.diagnostics.schema_revision() == head_revision()
    async with elsewhere.read() as db:
        assert await db.diagnostics.schema_revision() is None
        await db.connection.execute(text("CREATE TABLE alembic_version (version_num text)"))
        await db.connection.execute(text("INSERT INTO alembic_version VALUES ('0005')"))
        assert await db.diagnostics.schema_revision() is None
        await db.connection.execute(text("CREATE TABLE tamatar_auth_version (version_num text)"))
        assert await db.diagnostics.schema_revision() is None


async def test_database_state_names_revision_and_missing_tables(database, elsewhere):
    async with database.read() as db:
        assert await db.diagnostics.database_state() == (head_revision(), [], None, False)
    async with elsewhere.read() as db:
        assert await db.diagnostics.database_state() is None
        await db.connection.execute(text("CREATE TABLE tamatar_auth_version (version_num text)"))
        await db.connection.execute(text("CREATE TABLE users (id int)"))
        revision, missing, *_ = await db.diagnostics.database_state()

    assert revision is None
    assert set(missing) == set(metadata.tables) - {"users"}


async def test_slowest_queries_are_sorted_and_without_values(database):
    async with database.read() as db:
        try:
            await db.diagnostics.slowest_queries(limit=1)
        except QueryStatisticsMissing:
            pytest.skip("this PostgreSQL has no pg_stat_statements")
        # Statements of other tests in this database must not fill the list.
        here = "(SELECT oid FROM pg_database WHERE datname = current_database())"
        await db.connection.execute(text(f"SELECT pg_stat_statements_reset(0, {here})"))
        await db.connection.execute(text("SELECT pg_sleep(0.05), 'a secret'"))
        found = await db.diagnostics.slowest_queries(limit=10)

    assert "a secret" not in repr(found)
    assert [row.total_seconds for row in found] == sorted(
        (row.total_seconds for row in found), reverse=True
    )
    slept = next(row for row in found if "pg_sleep($1), $2" in row.query)
    assert (slept.calls, slept.rows) == (1, 1)
    assert slept.mean_seconds == slept.total_seconds


async def test_slowest_queries_without_extension_raises(elsewhere):
    async with elsewhere.read() as db:
        with pytest.raises(QueryStatisticsMissing):
            await db.diagnostics.slowest_queries(limit=1)


async def test_slowest_queries_omit_health_check(database):
    async with database.read() as db:
        try:
            await db.diagnostics.slowest_queries(limit=1)
        except QueryStatisticsMissing:
            pytest.skip("this PostgreSQL has no pg_stat_statements")
        here = "(SELECT oid FROM pg_database WHERE datname = current_database())"
        await db.connection.execute(text(f"SELECT pg_stat_statements_reset(0, {here})"))
    assert (await check_readiness(database, head_revision())).problem is None
    async with database.read() as db:
        await db.connection.execute(text("SELECT 'another statement'"))
        found = [row.query for row in await db.diagnostics.slowest_queries(limit=100)]

    assert "SELECT $1" in found
    assert not [query for query in found if "pg_is_in_recovery" in query]
