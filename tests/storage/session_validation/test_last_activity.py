"""Last activity: recorded uses are written in one statement, and lost without harm."""

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest
import structlog
from sqlalchemy import event, func, text, update

from tamatar_auth.storage.database import Database
from tamatar_auth.storage.engine import create_engine
from tamatar_auth.storage.session_validation import validator
from tamatar_auth.storage.session_validation.validator import LastActivityWriter
from tamatar_auth.storage.tables import sessions
from tests.support.rows import new_session, new_user
from tests.support.waiting import eventually

LIFETIME = timedelta(days=7)


@pytest.fixture
async def rested(database):
    """Three sessions that were not used for an hour."""
    async with database.transaction() as tx:
        user = await tx.users.add(new_user())
        rows = [await tx.sessions.add(new_session(user.id)) for _ in range(3)]
        rest = func.now() - timedelta(hours=1)
        await tx.connection.execute(update(sessions).values(last_activity_at=rest))
    return rows


@pytest.fixture
def statements(database):
    """The statements that are executed."""
    seen = []

    def see(_connection, _cursor, statement, *_):
        seen.append(statement)

    engine = database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", see)
    yield seen
    event.remove(engine, "before_cursor_execute", see)


def record(writer, session):
    writer.record(session.id, session.expires_at)


async def used(database, rested):
    """Return for each session whether it was used a moment ago."""
    async with database.read() as db:
        found = [await db.sessions.get(row.id) for row in rested]
    return [row.last_activity_at > row.created_at - timedelta(minutes=1) for row in found]


async def test_flush_writes_all_used_sessions_in_one_statement(database, rested, statements):
    writer = LastActivityWriter()
    unknown = rested[0]._replace(id=uuid4())
    for row in (rested[0], rested[1], rested[0], unknown):
        record(writer, row)

    await writer.flush(database)

    assert len(statements) == 1
    assert await used(database, rested) == [True, True, False]


async def test_flush_without_new_uses_writes_nothing(database, rested, statements):
    writer = LastActivityWriter()
    await writer.flush(database)
    record(writer, rested[0])
    await writer.flush(database)
    await writer.flush(database)

    assert len(statements) == 1


async def test_use_during_flush_is_written_by_next_flush(database, rested):
    writer = LastActivityWriter()
    record(writer, rested[0])
    writing = asyncio.create_task(writer.flush(database))
    await asyncio.sleep(0)
    record(writer, rested[1])
    await writing
    assert await used(database, rested) == [True, False, False]

    await writer.flush(database)
    assert await used(database, rested) == [True, True, False]


async def test_pending_uses_are_limited(database, rested, monkeypatch):
    monkeypatch.setattr(validator, "MAX_PENDING", 2)
    writer = LastActivityWriter()
    for row in rested:
        record(writer, row)

    await writer.flush(database)

    assert await used(database, rested) == [True, True, False]


async def test_flush_without_database_logs_and_drops_uses(settings, database, rested):
    away = Database(create_engine(settings.with_database("postgresql://127.0.0.1:1/x").database))
    writer = LastActivityWriter()
    record(writer, rested[0])

    with structlog.testing.capture_logs() as logs:
        await writer.flush(away)

    (entry,) = logs
    assert (entry["event"], entry["log_level"]) == ("activity was not written", "warning")
    assert str(rested[0].id) not in str(entry)
    await writer.flush(database)
    assert await used(database, rested) == [False, False, False]


async def test_flush_past_write_timeout_is_given_up(database, rested, monkeypatch):
    monkeypatch.setattr(validator, "WRITE_TIMEOUT", 0.1)
    writer = LastActivityWriter()
    record(writer, rested[0])
    with structlog.testing.capture_logs() as logs:
        async with database.transaction() as tx:
            await tx.connection.execute(text("LOCK sessions"))
            await writer.flush(database)

    assert [(it["event"], it["error"]) for it in logs] == [
        ("activity was not written", "StorageTimedOut")
    ]
    assert await used(database, rested) == [False, False, False]


async def test_run_forever_flushes_repeatedly(database, rested, monkeypatch):
    monkeypatch.setattr(validator, "WRITE_INTERVAL", 0.01)
    writer = LastActivityWriter()
    task = asyncio.create_task(writer.run_forever(database))
    for n, row in enumerate(rested):
        record(writer, row)
        written = [each <= n for each in range(len(rested))]
        await eventually(lambda written=written: is_used(database, rested, written))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def is_used(database, rested, expected):
    return await used(database, rested) == expected
