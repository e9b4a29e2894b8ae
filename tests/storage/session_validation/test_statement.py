"""The statement for standbys: the clock of the primary decides."""

from datetime import UTC, datetime, timedelta

import pytest

from tamatar_auth.errors.sessions import SessionExpired
from tamatar_auth.storage.instrumentation.queries import StatementObserver
from tamatar_auth.storage.repositories.session_state import raise_refusal
from tamatar_auth.storage.repositories.token_keys import TokenKey
from tamatar_auth.storage.session_validation.connections import DedicatedPool
from tamatar_auth.storage.session_validation.statement import (
    AUTHENTICATED_AT,
    NOW,
    REFUSAL,
    of_days,
    sessions_at_time,
)
from tests.support.rows import new_session, new_user

HOUR = timedelta(hours=1)


@pytest.fixture
async def read(settings, database):
    """A function that returns the row of a session that ends in an hour, at a time."""
    async with database.transaction() as tx:
        user = await tx.users.add(new_user())
        session = new_session(user.id, expires_at=datetime.now(UTC) + HOUR)
        await tx.sessions.add(session)
    pool = DedicatedPool(settings.database, StatementObserver(60, None, None), 8)

    async def read(now):
        async with pool.acquire() as connection:
            (row,) = await pool.statement(sessions_at_time).rows(
                connection,
                **of_days([TokenKey(session.token_digest)]),
                idle_limit=None,
                now=str(now),
            )
            return row

    yield read
    await pool.close()


async def test_session_ends_by_the_clock_that_is_given(read):
    now = datetime.now(UTC)
    assert (await read(now))[REFUSAL] is None
    assert (await read(now - 24 * HOUR))[REFUSAL] is None
    with pytest.raises(SessionExpired):
        raise_refusal((await read(now + 24 * HOUR))[REFUSAL])


async def test_age_is_counted_by_the_clock_that_is_given(read):
    for hours in (0, 24):
        row = await read(datetime.now(UTC) + hours * HOUR)
        age = timedelta(microseconds=row[NOW] - row[AUTHENTICATED_AT])
        assert abs(age - hours * HOUR) < HOUR


async def test_statement_for_standbys_reads_no_clock(settings):
    pool = DedicatedPool(settings.database, StatementObserver(60, None, None), 8)

    assert "now()" not in pool.statement(sessions_at_time).text
