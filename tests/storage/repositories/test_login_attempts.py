"""LoginAttemptRepository: every method, on a real database."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import DateTime, func, literal, select, text, update

from tamatar_auth.storage.repositories import login_attempts
from tamatar_auth.storage.repositories.login_attempts import (
    FREE_ATTEMPTS,
    MAX_FAILURES,
    MAX_WAIT,
    RESERVATION_LIFETIME,
    AttemptKeys,
)
from tamatar_auth.storage.tables import password_attempts
from tests.support.rows import new_user
from tests.support.waiting import eventually

NAME, OTHER_NAME, ACCOUNT, OTHER_ACCOUNT = (letter * 32 for letter in (b"n", b"o", b"a", b"b"))
KEYS = AttemptKeys(NAME, ACCOUNT, None)
OTHER_KEYS = AttemptKeys(OTHER_NAME, OTHER_ACCOUNT, None)
LONGEST = MAX_WAIT.total_seconds()
MOMENT = literal(datetime.now(UTC), DateTime(timezone=True))

GRANTED = (True, None, False)
IN_PROGRESS = (False, None, False)


def waits(seconds):
    return (False, seconds, False)


@pytest.fixture(autouse=True)
def stopped_clock(monkeypatch):
    """Stop the clock, so that no wait shortens on a slow machine."""
    monkeypatch.setattr(login_attempts, "_reserve", login_attempts.reserve_statement(MOMENT))
    failed = login_attempts.failure_statement(MOMENT)
    monkeypatch.setattr(login_attempts, "_record_failure", failed)


@pytest.fixture
def attempts(database):
    """Call a method of the repository in a transaction of its own."""

    class Attempts:
        def __getattr__(self, name):
            async def call(*keys):
                async with database.transaction() as tx:
                    return await getattr(tx.attempts, name)(*keys)

            return call

        async def fail(self, times=1, keys=KEYS):
            for _ in range(times):
                assert await self.reserve(keys) == GRANTED
                await self.record_failure(keys)

    return Attempts()


@pytest.fixture
def set_row(database):
    """Change columns of a row."""

    async def set_row(account=NAME, **values):
        async with database.transaction() as tx:
            changed = update(password_attempts).where(password_attempts.c.account == account)
            await tx.connection.execute(changed.values(values))

    return set_row


@pytest.fixture
def rows(database):
    """Return the rows by account."""

    async def rows():
        async with database.read() as db:
            found = await db.connection.execute(select(password_attempts))
            return {row.account: row for row in found}

    return rows


class TestReservations:
    """Attempts in progress."""

    async def test_reservations_are_limited_to_free_attempts(self, attempts, rows):
        said = [await attempts.reserve(KEYS) for _ in range(FREE_ATTEMPTS + 2)]

        assert said == [GRANTED] * (FREE_ATTEMPTS + 1) + [IN_PROGRESS]
        row = (await rows())[NAME]
        assert (row.failures, row.pending, row.user_id) == (0, FREE_ATTEMPTS + 1, None)

    async def test_failures_and_reservations_are_limited_together(self, attempts):
        await attempts.fail(FREE_ATTEMPTS - 1)

        said = [await attempts.reserve(KEYS) for _ in range(3)]

        assert said == [GRANTED, GRANTED, IN_PROGRESS]

    async def test_concurrent_reservations_are_limited(self, attempts, rows):
        said = await asyncio.gather(*(attempts.reserve(KEYS) for _ in range(30)))

        assert said.count(GRANTED) == (await rows())[NAME].pending == FREE_ATTEMPTS + 1
        assert said.count(IN_PROGRESS) == 30 - FREE_ATTEMPTS - 1

    async def test_attempt_after_a_wait_is_reserved_alone(self, attempts, set_row):
        await attempts.fail()
        await set_row(failures=20)

        said = await asyncio.gather(*(attempts.reserve(KEYS) for _ in range(30)))

        assert (said.count(GRANTED), said.count(IN_PROGRESS)) == (1, 29)

    async def test_released_reservation_is_no_failure(self, attempts, rows):
        for _ in range(FREE_ATTEMPTS + 1):
            await attempts.reserve(KEYS)

        await attempts.release(KEYS)

        assert (await rows())[NAME].failures == 0
        assert await attempts.reserve(KEYS) == GRANTED
        assert await attempts.reserve(KEYS) == IN_PROGRESS

    async def test_reservations_expire_together(self, attempts, set_row, rows):
        for _ in range(FREE_ATTEMPTS + 1):
            await attempts.reserve(KEYS)
        assert (await rows())[NAME].pending_until == MOMENT.value + RESERVATION_LIFETIME
        await set_row(pending_until=MOMENT)

        assert await attempts.reserve(KEYS) == GRANTED
        assert (await rows())[NAME].pending == 1

    async def test_failure_after_expiry_counts(self, attempts, set_row, rows):
        await attempts.reserve(KEYS)
        await set_row(pending=0)

        await attempts.record_failure(KEYS)

        row = (await rows())[NAME]
        assert (row.failures, row.pending) == (1, 0)


class TestWaits:
    """Attempts that must wait."""

    async def test_attempt_after_free_ones_waits_and_is_not_counted(self, attempts, rows):
        await attempts.fail(FREE_ATTEMPTS + 1)
        before = await rows()

        assert await attempts.reserve(KEYS) == waits(1)
        assert await rows() == before
        assert before[NAME].failures == before[ACCOUNT].failures == FREE_ATTEMPTS + 1

    async def test_wait_doubles_after_each_failure(self, attempts, set_row, rows):
        await attempts.fail(FREE_ATTEMPTS + 1)
        for wait in (2, 4, 8):
            await set_row(blocked_until=MOMENT)

            await attempts.fail()
            assert await attempts.reserve(KEYS) == waits(wait)

        assert (await rows())[NAME].failures == FREE_ATTEMPTS + 4

    @pytest.mark.parametrize("failures", [13, 14, 18, 19, 20, 50, MAX_FAILURES])
    async def test_wait_is_at_most_a_quarter_of_an_hour(self, attempts, set_row, failures):
        await attempts.fail()
        await set_row(failures=failures, blocked_until=MOMENT)

        await attempts.fail()
        assert await attempts.reserve(KEYS) == waits(LONGEST)

    async def test_wait_of_part_of_a_second_is_rounded_up(self, attempts, set_row):
        await attempts.fail()
        await set_row(blocked_until=MOMENT + timedelta(milliseconds=500))

        assert await attempts.reserve(KEYS) == waits(1)

    async def test_wait_begins_after_the_lock_of_the_row(
        self, database, attempts, rows, monkeypatch
    ):
        monkeypatch.undo()  # the clock runs
        await attempts.fail(FREE_ATTEMPTS)
        await attempts.reserve(KEYS)
        locked = select(password_attempts.c.account).with_for_update()
        async with database.transaction() as holder:
            await holder.connection.execute(locked)
            failing = asyncio.create_task(attempts.record_failure(KEYS))
            await eventually(lambda: waits_for_a_lock(database))
            clock = await holder.connection.execute(select(func.clock_timestamp()))
            waited_until = clock.scalar_one()
        await failing

        assert (await rows())[NAME].blocked_until > waited_until + timedelta(seconds=1)


class TestAccounts:
    """The counter of the account."""

    async def test_failures_of_all_names_disable_the_account(self, attempts, set_row):
        await attempts.fail()
        await set_row(ACCOUNT, failures=MAX_FAILURES - 1)
        assert await attempts.reserve(KEYS) == GRANTED

        await attempts.fail(keys=KEYS._replace(typed=OTHER_NAME))

        assert await attempts.reserve(KEYS) == (True, None, True)

    async def test_success_of_disabled_account_changes_nothing(self, attempts, set_row, rows):
        await attempts.fail()
        await set_row(ACCOUNT, failures=MAX_FAILURES)
        before = await rows()

        assert not await attempts.record_success(KEYS)
        assert await rows() == before

    async def test_success_waits_for_a_failure_that_disables(self, database, attempts, set_row):
        await attempts.fail()
        await set_row(ACCOUNT, failures=MAX_FAILURES - 1)
        async with database.transaction() as other:
            await other.attempts.record_failure(KEYS._replace(typed=OTHER_NAME))
            succeeding = asyncio.create_task(attempts.record_success(KEYS))
            await eventually(lambda: waits_for_a_lock(database))

        assert not await succeeding

    async def test_success_forgets_failures_of_both_counters(self, attempts, rows):
        await attempts.fail(FREE_ATTEMPTS)
        await attempts.fail(keys=OTHER_KEYS)
        await attempts.reserve(KEYS)

        assert await attempts.record_success(KEYS)

        assert set(await rows()) == set(OTHER_KEYS[:2])
        assert await attempts.record_success(KEYS)  # without rows

    async def test_clear_forgets_the_counters_it_names(self, attempts, rows):
        await attempts.fail()
        await attempts.fail(keys=OTHER_KEYS)

        await attempts.clear(ACCOUNT, OTHER_NAME)

        assert set(await rows()) == {NAME, OTHER_ACCOUNT}

    async def test_names_count_separately(self, attempts):
        await attempts.fail(FREE_ATTEMPTS + 1)

        assert await attempts.reserve(KEYS) == waits(1)
        assert await attempts.reserve(KEYS._replace(typed=OTHER_NAME)) == GRANTED

    async def test_concurrent_settlements_do_not_deadlock(self, attempts, set_row, rows):
        keys = [KEYS, KEYS._replace(typed=OTHER_NAME)]
        for each in keys:
            await attempts.fail(keys=each)
            await set_row(each.typed, failures=0)

        async def settle(number):
            settled = attempts.record_success if number % 5 == 0 else attempts.record_failure
            await settled(keys[number % 2])

        await asyncio.gather(*map(settle, range(60)))

    async def test_attempts_of_purged_user_are_deleted(self, database, attempts, rows):
        async with database.transaction() as tx:
            user = await tx.users.add(new_user())
        await attempts.fail(keys=KEYS._replace(user_id=user.id))
        await attempts.fail(keys=OTHER_KEYS)

        async with database.transaction() as tx:
            await tx.users.purge(user.id)

        assert set(await rows()) == {NAME, *OTHER_KEYS[:2]}


async def waits_for_a_lock(database):
    async with database.read() as db:
        waiting = await db.connection.execute(
            text(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        )
        return waiting.scalar_one() > 0
