"""AttemptRepository: every method, on a real database."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import DateTime, literal, select, update

from tamatar_auth.storage.repositories import login_attempts as module
from tamatar_auth.storage.repositories.login_attempts import (
    FREE_ATTEMPTS,
    LONGEST_WAIT,
    MOST_FAILURES,
)
from tamatar_auth.storage.tables import password_attempts
from tests.support.rows import new_user

ACCOUNT, OTHER = b"a" * 32, b"o" * 32
LONGEST = LONGEST_WAIT.total_seconds()
MOMENT = literal(datetime.now(UTC), DateTime(timezone=True))


@pytest.fixture(autouse=True)
def stopped_clock(monkeypatch):
    """Let no time pass: however slow the machine is, no wait gets shorter."""
    monkeypatch.setattr(module, "_now", MOMENT)


@pytest.fixture
def begin(database):
    """Begin an attempt in a transaction of its own."""

    async def begin(account=ACCOUNT, user_id=None):
        async with database.transaction() as tx:
            return await tx.attempts.begin(account, user_id)

    return begin


@pytest.fixture
def forget(database):
    async def forget(account=ACCOUNT):
        async with database.transaction() as tx:
            await tx.attempts.forget(account)

    return forget


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


async def test_the_first_attempts_are_free_and_counted(begin, rows):
    assert [await begin() for _ in range(FREE_ATTEMPTS + 1)] == [None] * (FREE_ATTEMPTS + 1)

    (row,) = await rows()
    assert (row.account, row.user_id, row.failures) == (ACCOUNT, None, FREE_ATTEMPTS + 1)


async def test_the_next_attempt_waits_and_is_not_counted(begin, rows):
    for _ in range(FREE_ATTEMPTS + 1):
        await begin()
    before = await rows()

    assert await begin() == 1
    assert await rows() == before


async def test_after_the_wait_one_attempt_is_counted_and_the_wait_doubles(begin, set_row, rows):
    for _ in range(FREE_ATTEMPTS + 1):
        await begin()
    for wait in (2, 4, 8):
        await set_row(blocked_until=MOMENT)

        assert await begin() is None
        assert await begin() == wait

    (row,) = await rows()
    assert row.failures == FREE_ATTEMPTS + 4


@pytest.mark.parametrize("failures", [13, 14, 18, 19, 20, 50, MOST_FAILURES - 1])
async def test_no_wait_is_longer_than_a_quarter_of_an_hour(begin, set_row, failures):
    await begin()
    await set_row(failures=failures, blocked_until=MOMENT)

    assert await begin() is None
    assert await begin() == LONGEST


async def test_a_wait_that_is_nearly_over_is_a_second(begin, set_row):
    await begin()
    soon = MOMENT + timedelta(milliseconds=500)
    await set_row(failures=FREE_ATTEMPTS, blocked_until=soon)

    assert await begin() == 1


async def test_after_a_hundred_failures_no_attempt_is_counted_any_more(begin, set_row, rows):
    await begin()
    await set_row(failures=MOST_FAILURES, blocked_until=MOMENT - timedelta(days=30))

    assert await begin() == LONGEST
    (row,) = await rows()
    assert row.failures == MOST_FAILURES


async def test_an_attempt_that_succeeded_is_forgotten(begin, forget, rows):
    for _ in range(FREE_ATTEMPTS + 1):
        await begin()
    await begin(OTHER)

    await forget()

    (row,) = await rows()
    assert row.account == OTHER
    assert await begin() is None
    await forget(b"n" * 32)  # nobody's: nothing to forget


async def test_accounts_count_on_their_own(begin):
    for _ in range(FREE_ATTEMPTS + 1):
        await begin()

    assert await begin() is not None
    assert await begin(OTHER) is None


async def test_of_attempts_at_once_no_more_are_looked_at_than_are_free(begin, rows):
    waits = await asyncio.gather(*(begin() for _ in range(30)))

    (row,) = await rows()
    assert waits.count(None) == row.failures == FREE_ATTEMPTS + 1
    assert all(wait == 1 for wait in waits if wait is not None)


async def test_an_account_follows_who_has_the_address(database, begin, rows):
    await begin()
    async with database.transaction() as tx:
        user = await tx.users.add(new_user())

    await begin(user_id=user.id)
    assert [row.user_id for row in await rows()] == [user.id]

    await begin()
    assert [row.user_id for row in await rows()] == [None]


async def test_the_attempts_of_a_purged_user_go_with_it(database, begin, rows):
    async with database.transaction() as tx:
        user = await tx.users.add(new_user())
    await begin(user_id=user.id)
    await begin(OTHER)

    async with database.transaction() as tx:
        await tx.users.purge(user.id)

    assert [row.account for row in await rows()] == [OTHER]
