"""Processes that renew one row: none depends on another."""

import asyncio
from datetime import timedelta

import pytest

from tamatar_auth.storage.driver.connection import Connection
from tamatar_auth.storage.driver.orphaned_statements import OrphanedStatements
from tamatar_auth.storage.primary_heartbeat import PrimaryHeartbeat
from tests.support.settings import changed
from tests.support.waiting import eventually

NO_LIMIT = "options=-cidle_in_transaction_session_timeout%3D0"


@pytest.fixture
async def heartbeats(settings):
    """Two heartbeats, as of two processes, on connections whose URL sets no limit."""
    url = f"{settings.database.url.get_secret_value()}?{NO_LIMIT}"
    mine = changed(settings.with_database(url), primary_acknowledged_within=timedelta(seconds=3))
    orphaned = OrphanedStatements()
    pair = [PrimaryHeartbeat(mine.database, orphaned) for _ in range(2)]
    yield pair
    for heartbeat in pair:
        await heartbeat.close()
    await orphaned.close()


@pytest.mark.parametrize("frozen_at", [1, 2])
async def test_frozen_process_keeps_no_other_from_renewing(
    heartbeats, database, monkeypatch, frozen_at
):
    """It freezes while it has locked the row, before it commits a time or its mark."""
    async with database.transaction() as tx:
        await tx.connection.exec_driver_sql("INSERT INTO primary_heartbeat DEFAULT VALUES")
    is_frozen = asyncio.Event()
    commits = 0
    commit = Connection.commit

    async def freeze(connection):
        nonlocal commits
        commits += 1
        if commits == frozen_at:
            is_frozen.set()
            await asyncio.Event().wait()
        await commit(connection)

    first, second = heartbeats
    monkeypatch.setattr(Connection, "commit", freeze)
    await first.confirm(database)
    await is_frozen.wait()
    before = await acknowledged_at(database)

    async def is_renewed():
        await second.confirm(database)
        return await acknowledged_at(database) != before

    await eventually(is_renewed)


async def acknowledged_at(database):
    async with database.read() as db:
        found = await db.connection.exec_driver_sql(
            "SELECT CAST(acknowledged_at AS text) FROM primary_heartbeat"
        )
        return found.scalar_one()
