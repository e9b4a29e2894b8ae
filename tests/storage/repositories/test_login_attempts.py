"""LoginAttemptRepository: every method, on a real database."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import DateTime, literal, select, update

from tamatar_auth.storage.repositories import login_attempts
from tamatar_auth.storage.repositories.login_attempts import (
    FREE_ATTEMPTS,
    MAX_FAILURES,
    MAX_WAIT,
)
from tamatar_auth.storage.tables import password_attempts
from tests.support.rows import new_user

ACCOUNT, OTHER = b"a" * 32, b"o" * 32
LONGEST = MAX_WAIT.total_seconds()
MOMENT = literal(datetime.now(UTC), DateTime(timezone=True))


@pytest.fixture(autouse=True)
def stopped_clock(monkeypatch):
    """Let no time pass: however slow the machine is, no wait gets shorter."""
    monkeypatch.setattr(login_attempts, "_now", MOMENT)


@pytest.fixture
def record_attempt(database):
    """Begin an attempt in a transaction of its own."""

    async def record_attempt(account=ACCOUNT, user_id=None):
        async with database.transaction() as tx:
            return await tx.attempts.record_attempt(account, user_id)

    return record_attempt


@pytest.fixture
def clear(database):
    async def clear(account=ACCOUNT):
        async with database.transaction() as tx:
            await tx.attempts.clear(account)

    return clear


@pytest.fixture
def set_row(database):
    """Change columns of every account."""

    async def set_row(**values):
        async with database.transaction() as tx:
            await tx.connection.execute(update(password_attempts).values(values))

    return set_row


@pytest.fixture
def rows(database):
    async def rows():
        async with database.read() as db:
            found = await db.connection.execute(
                select(password_attempts).order_by(password_attempts.c.account)
            )
            return found.all()

    return rows


async def test_the_first_attempts_are_free_and_counted(record_attempt, rows):
    assert [await record_attempt() for _ in range(FREE_ATTEMPTS + 1)] == [None] * (
        FREE_ATTEMPTS + 1
    )

    (row,) = await rows()
    assert (row.account, row.user_id, row.failures) == (ACCOUNT, None, FREE_ATTEMPTS + 1)


async def test_the_next_attempt_waits_and_is_not_counted(record_attempt, rows):
    for _ in range(FREE_ATTEMPTS + 1):
        await record_attempt()
    before = await rows()

    assert await record_attempt() == 1
    assert await rows() == before


async def test_after_the_wait_one_attempt_is_counted_and_the_wait_doubles(
    record_attempt, set_row, rows
):
    for _ in range(FREE_ATTEMPTS + 1):
        await record_attempt()
    for wait in (2, 4, 8):
        await set_row(blocked_until=MOMENT)

        assert await record_attempt() is None
        assert await record_attempt() == wait

    (row,) = await rows()
    assert row.failures == FREE_ATTEMPTS + 4


@pytest.mark.parametrize("failures", [13, 14, 18, 19, 20, 50, MAX_FAILURES - 1])
async def test_no_wait_is_longer_than_a_quarter_of_an_hour(record_attempt, set_row, failures):
    await record_attempt()
    await set_row(failures=failures, blocked_until=MOMENT)

    assert await record_attempt() is None
    assert await record_attempt() == LONGEST


async def test_a_wait_that_is_nearly_over_is_a_second(record_attempt, set_row):
    await record_attempt()
    soon = MOMENT + timedelta(milliseconds=500)
    await set_row(failures=FREE_ATTEMPTS, blocked_until=soon)

    assert await record_attempt() == 1


async def test_after_a_hundred_failures_no_attempt_is_counted_any_more(
    record_attempt, set_row, rows
):
    await record_attempt()
    await set_row(failures=MAX_FAILURES, blocked_until=MOMENT - timedelta(days=30))

    assert await record_attempt() == LONGEST
    (row,) = await rows()
    assert row.failures == MAX_FAILURES


async def test_an_attempt_that_succeeded_is_forgotten(record_attempt, clear, rows):
    for _ in range(FREE_ATTEMPTS + 1):
        await record_attempt()
    await record_attempt(OTHER)

    await clear()

    (row,) = await rows()
    assert row.account == OTHER
    assert await record_attempt() is None
    await clear(b"n" * 32)  # nobody's: nothing to forget


async def test_accounts_count_on_their_own(record_attempt):
    for _ in range(FREE_ATTEMPTS + 1):
        await record_attempt()

    assert await record_attempt() is not None
    assert await record_attempt(OTHER) is None


async def test_of_attempts_at_once_no_more_are_looked_at_than_are_free(record_attempt, rows):
    waits = await asyncio.gather(*(record_attempt() for _ in range(30)))

    (row,) = await rows()
    assert waits.count(None) == row.failures == FREE_ATTEMPTS + 1
    assert all(wait == 1 for wait in waits if wait is not None)


async def test_an_account_follows_who_has_the_address(database, record_attempt, rows):
    await record_attempt()
    async with database.transaction() as tx:
        user = await tx.users.add(new_user())

    await record_attempt(user_id=user.id)
    assert [row.user_id for row in await rows()] == [user.id]

    await record_attempt()
    assert [row.user_id for row in await rows()] == [None]


async def test_the_attempts_of_a_purged_user_go_with_it(database, record_attempt, rows):
    async with database.transaction() as tx:
        user = await tx.users.add(new_user())
    await record_attempt(user_id=user.id)
    await record_attempt(OTHER)

    async with database.transaction() as tx:
        await tx.users.purge(user.id)

    assert [row.account for row in await rows()] == [OTHER]
