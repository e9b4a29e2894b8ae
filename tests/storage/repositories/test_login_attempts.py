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
    """Stop the clock, so that no wait shortens on a slow machine."""
    monkeypatch.setattr(login_attempts, "_record", login_attempts.record_statement(MOMENT))


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


class TestWaits:
    """Attempts that must wait."""

    async def test_first_attempts_are_free_and_counted(self, record_attempt, rows):
        assert [await record_attempt() for _ in range(FREE_ATTEMPTS + 1)] == [None] * (
            FREE_ATTEMPTS + 1
        )

        (row,) = await rows()
        assert (row.account, row.user_id, row.failures) == (ACCOUNT, None, FREE_ATTEMPTS + 1)

    async def test_attempt_after_free_ones_waits_and_is_not_counted(self, record_attempt, rows):
        for _ in range(FREE_ATTEMPTS + 1):
            await record_attempt()
        before = await rows()

        assert await record_attempt() == 1
        assert await rows() == before

    async def test_wait_doubles_after_each_counted_attempt(self, record_attempt, set_row, rows):
        for _ in range(FREE_ATTEMPTS + 1):
            await record_attempt()
        for wait in (2, 4, 8):
            await set_row(blocked_until=MOMENT)

            assert await record_attempt() is None
            assert await record_attempt() == wait

        (row,) = await rows()
        assert row.failures == FREE_ATTEMPTS + 4

    @pytest.mark.parametrize("failures", [13, 14, 18, 19, 20, 50, MAX_FAILURES - 1])
    async def test_wait_is_at_most_a_quarter_of_an_hour(self, record_attempt, set_row, failures):
        await record_attempt()
        await set_row(failures=failures, blocked_until=MOMENT)

        assert await record_attempt() is None
        assert await record_attempt() == LONGEST

    async def test_wait_of_part_of_a_second_is_rounded_up(self, record_attempt, set_row):
        await record_attempt()
        soon = MOMENT + timedelta(milliseconds=500)
        await set_row(failures=FREE_ATTEMPTS, blocked_until=soon)

        assert await record_attempt() == 1

    async def test_attempt_after_max_failures_is_never_counted(self, record_attempt, set_row, rows):
        await record_attempt()
        await set_row(failures=MAX_FAILURES, blocked_until=MOMENT - timedelta(days=30))

        assert await record_attempt() == LONGEST
        (row,) = await rows()
        assert row.failures == MAX_FAILURES

    async def test_concurrent_attempts_are_limited_to_free_ones(self, record_attempt, rows):
        waits = await asyncio.gather(*(record_attempt() for _ in range(30)))

        (row,) = await rows()
        assert waits.count(None) == row.failures == FREE_ATTEMPTS + 1
        assert all(wait == 1 for wait in waits if wait is not None)


class TestAccounts:
    """Accounts of attempts."""

    async def test_clear_after_success_forgets_failures(self, record_attempt, clear, rows):
        for _ in range(FREE_ATTEMPTS + 1):
            await record_attempt()
        await record_attempt(OTHER)

        await clear()

        (row,) = await rows()
        assert row.account == OTHER
        assert await record_attempt() is None
        await clear(b"n" * 32)  # an account without failures

    async def test_accounts_count_separately(self, record_attempt):
        for _ in range(FREE_ATTEMPTS + 1):
            await record_attempt()

        assert await record_attempt() is not None
        assert await record_attempt(OTHER) is None

    async def test_attempts_follow_current_owner_of_address(self, database, record_attempt, rows):
        await record_attempt()
        async with database.transaction() as tx:
            user = await tx.users.add(new_user())

        await record_attempt(user_id=user.id)
        assert [row.user_id for row in await rows()] == [user.id]

        await record_attempt()
        assert [row.user_id for row in await rows()] == [None]

    async def test_attempts_of_purged_user_are_deleted(self, database, record_attempt, rows):
        async with database.transaction() as tx:
            user = await tx.users.add(new_user())
        await record_attempt(user_id=user.id)
        await record_attempt(OTHER)

        async with database.transaction() as tx:
            await tx.users.purge(user.id)

        assert [row.account for row in await rows()] == [OTHER]
