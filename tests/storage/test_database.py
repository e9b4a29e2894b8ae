"""Scopes commit, roll back and read one snapshot; the pool replaces dead connections."""

import asyncio
from datetime import UTC
from uuid import uuid4

import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import exc, text

from tamatar_auth.errors.users import UserNotFound
from tamatar_auth.storage.database import Database, PoolState, _pool
from tamatar_auth.storage.driver import limits
from tamatar_auth.storage.driver.connect import libpq_url
from tamatar_auth.storage.engine import create_engine
from tamatar_auth.storage.repositories.user_filters import UserFilter, UserOrder
from tests.support.rows import new_user
from tests.support.settings import changed
from tests.support.waiting import PATIENCE

ALL = UserFilter()
SLOW_PID = "SELECT pg_backend_pid() FROM pg_sleep(0.1)"


@pytest.fixture
async def small(database, settings):
    """The same database through a pool of one connection."""
    small = Database(create_engine(settings.database, pool_size=1))
    yield small
    await small.close()


@pytest.fixture
async def patient(database, settings):
    """The same database through a pool of two connections, for which calls wait long."""
    patient = Database(create_engine(settings.database, pool_size=2, pool_wait=60))
    yield patient
    await patient.close()


async def count(database):
    async with database.read() as db:
        return (await db.user_lists.count(ALL)).number


async def ask(database, query):
    async with database.read() as db:
        return (await db.connection.execute(text(query))).scalar_one()


async def terminate(database, pid):
    """End a backend of PostgreSQL, and wait until it is gone."""
    assert await ask(database, f"SELECT pg_terminate_backend({pid}, 5000)")


class TestScopes:
    """Transactions and snapshots."""

    async def test_transaction_when_committed_becomes_visible(self, database):
        async with database.transaction() as tx:
            await tx.users.add(new_user())
            assert await count(database) == 0

        assert await count(database) == 1

    async def test_transaction_that_raises_is_rolled_back(self, database):
        async def fail():
            async with database.transaction() as tx:
                await tx.users.add(new_user())
                await tx.users.get(uuid4())

        with pytest.raises(UserNotFound):
            await fail()

        assert await count(database) == 0
        assert database.pool.in_use == 0

    @pytest.mark.parametrize("query", ["SELECT pg_sleep(60)", None])
    async def test_transaction_when_cancelled_frees_its_connection(self, small, query):
        begun = asyncio.Event()

        async def work():
            async with small.transaction() as tx:
                await tx.users.add(new_user())
                begun.set()
                if query:
                    await tx.connection.execute(text(query))
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await begun.wait()
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert await count(small) == 0
        assert small.pool == PoolState(in_use=0, size=1, waiting=0)

    async def test_wait_for_connection_when_cancelled_leaves_pool_whole(self, small):
        async with small.transaction():
            waiting = [asyncio.create_task(count(small)) for _ in range(5)]
            await asyncio.sleep(0.02)
            assert small.pool == PoolState(in_use=1, size=1, waiting=5)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            assert small.pool.waiting == 0

        assert await count(small) == 0

    async def test_snapshot_during_other_commit_reads_one_moment(self, database):
        async with database.transaction() as tx:
            await tx.users.add(new_user())

        async with database.snapshot() as db:
            before = (await db.user_lists.count(ALL)).number
            async with database.transaction() as tx:
                await tx.users.add(new_user())
            rows = (await db.user_lists.page(ALL, UserOrder(), size=10)).rows
            stats = await db.user_lists.stats(ALL)

        assert (before, len(rows), stats.total.number) == (1, 1, 1)
        assert await count(database) == 2

    async def test_connection_after_snapshot_or_read_writes_again(self, small):
        for scope in (small.snapshot, small.read):
            async with scope() as db:
                await db.user_lists.count(ALL)
            async with small.transaction() as tx:
                await tx.users.add(new_user())
                level = text("SELECT current_setting('transaction_isolation')")
                assert (await tx.connection.execute(level)).scalar_one() == "read committed"

        assert await count(small) == 2

    async def test_connection_after_failed_transaction_is_usable(self, small):
        async def fail():
            async with small.transaction() as tx:
                await tx.connection.execute(text("SELECT 1 / 0"))

        with pytest.raises(exc.DBAPIError):
            await fail()

        assert await count(small) == 0


class TestPool:
    """Connections of the pool."""

    async def test_pool_with_terminated_connection_replaces_it(self, database, small):
        pid = await ask(small, "SELECT pg_backend_pid()")
        await terminate(database, pid)

        assert await ask(small, "SELECT pg_backend_pid()") != pid

    async def test_pool_with_closed_connection_replaces_it(self, small):
        async with small.read() as db:
            raw = await db.connection.get_raw_connection()
            driver = raw.driver_connection
        await driver.close()

        assert await count(small) == 0

    async def test_pool_of_dead_connections_replaces_all(self, database, settings):
        pool = Database(create_engine(settings.database, pool_size=5))
        pids = set(await asyncio.gather(*(ask(pool, SLOW_PID) for _ in range(5))))
        assert len(pids) == 5
        for pid in pids:
            await terminate(database, pid)

        alive = await asyncio.gather(*(ask(pool, SLOW_PID) for _ in range(5)))

        assert pids.isdisjoint(alive)
        assert len(set(alive)) == 5
        await pool.close()

    async def test_filling_pool_waits_for_no_connection_of_calls(self, patient, monkeypatch):
        monkeypatch.setattr("tamatar_auth.storage.database.FILL_TIMEOUT", 2 * PATIENCE)
        async with patient.read():
            await asyncio.wait_for(patient.fill_pool(), PATIENCE)

            assert patient.pool == PoolState(in_use=1, size=2, waiting=0)
            assert _pool(patient.engine).checkedin() == 1

    async def test_connection_returned_after_close_is_closed(self, settings):
        database = Database(create_engine(settings.database))
        async with database.read() as db:
            raw = await db.connection.get_raw_connection()
            driver = raw.driver_connection
            await database.close()
            assert not driver.closed

        assert driver.closed

    async def test_pool_state_counts_connections_in_use(self, database, settings):
        assert database.pool == PoolState(in_use=0, size=settings.database.pool_size, waiting=0)
        async with database.read(), database.transaction():
            assert database.pool == PoolState(in_use=2, size=settings.database.pool_size, waiting=0)

    async def test_connection_older_than_maximum_is_replaced(self, database, settings, monkeypatch):
        monkeypatch.setattr(limits, "MAX_CONNECTION_AGE", 1)
        pool = Database(create_engine(settings.database, pool_size=1))
        first = await ask(pool, "SELECT pg_backend_pid()")
        await asyncio.sleep(1.1)

        assert await ask(pool, "SELECT pg_backend_pid()") != first
        await pool.close()


class TestConnectionSettings:
    """URLs and settings of connections."""

    async def test_error_of_statement_holds_no_parameter(self, database):
        statement = text("SELECT 1 / 0 WHERE 'x' <> :secret")

        async with database.read() as db:
            with pytest.raises(exc.DBAPIError) as raised:
                await db.connection.execute(statement, {"secret": "planted"})

        assert "planted" not in str(raised.value)

    async def test_default_limits_reach_postgresql(self, impatient):
        database = Database(create_engine(impatient.database, pool_wait=30))
        shown = {
            "application_name": "tamatar-auth",
            "statement_timeout": "5s",
            "lock_timeout": "2s",
            "idle_in_transaction_session_timeout": "10s",
            "TimeZone": "UTC",
        }
        for name, value in shown.items():
            assert await ask(database, f"SHOW {name}") == value
        async with database.read() as db:
            raw = await db.connection.get_raw_connection()
            parameters = raw.driver_connection.info.get_parameters()
        assert parameters["tcp_user_timeout"] == "1500"
        assert parameters["connect_timeout"] == "2"
        await database.close()

    async def test_database_url_parameters_override_settings(self, settings, database_url):
        url = f"{database_url}?application_name=mine&options=-c%20lock_timeout%3D7s"
        database = Database(create_engine(settings.with_database(url).database))

        assert await ask(database, "SHOW application_name") == "mine"
        assert await ask(database, "SHOW lock_timeout") == "7s"
        assert await ask(database, "SHOW statement_timeout") == "100s"
        await database.close()

    async def test_pgoptions_are_added_to_options_of_service(self, settings, monkeypatch):
        monkeypatch.setenv("PGOPTIONS", "-c search_path=elsewhere -c lock_timeout=7s")
        database = Database(create_engine(settings.database))

        assert await ask(database, "SHOW search_path") == "elsewhere"
        assert await ask(database, "SHOW lock_timeout") == "7s"
        assert await ask(database, "SHOW statement_timeout") == "100s"
        await database.close()

    async def test_service_file_parameters_override_settings(
        self, settings, database_url, monkeypatch, tmp_path
    ):
        parameters = conninfo_to_dict(database_url)
        lines = [f"{name}={value}" for name, value in parameters.items()]
        own = ["options=-csearch_path=elsewhere", "application_name=mine"]
        (tmp_path / "services").write_text("\n".join(["[auth]", *lines, *own, ""]))
        monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
        url = "postgresql:///?service=auth"
        database = Database(create_engine(settings.with_database(url).database))

        assert await ask(database, "SHOW search_path") == "elsewhere"
        assert await ask(database, "SHOW application_name") == "mine"
        assert await ask(database, "SHOW statement_timeout") == "100s"
        await database.close()

    async def test_database_url_with_dead_host_uses_next_host(self, settings, database_url):
        several = database_url.replace("@127.0.0.1:", "@127.0.0.1:1,127.0.0.1:")
        database = Database(
            create_engine(
                settings.with_database(f"{several}?target_session_attrs=read-write").database
            )
        )

        assert await ask(database, "SELECT 1") == 1
        await database.close()

    async def test_sqlalchemy_url_is_converted_to_libpq_url(self, settings, database_url):
        url = database_url.replace("postgresql:", "postgresql+psycopg:")

        assert libpq_url(settings.with_database(url).database) == database_url

    def test_engine_without_database_url_raises(self, settings):
        with pytest.raises(LookupError):
            create_engine(changed(settings, database_url=None).database)

    async def test_row_timestamps_are_in_utc(self, database):
        async with database.transaction() as tx:
            user = await tx.users.add(new_user())

        assert user.created_at.tzinfo is not None
        assert user.created_at.utcoffset() == UTC.utcoffset(None)
