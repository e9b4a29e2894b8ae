"""Login attempts: the wrong passwords of an account, and the wait before the next attempt.

An attempt is counted before its password is checked, and the count is cleared if it is right.
So attempts at the same time check no more passwords than the count allows.
"""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, case, cast, delete, extract, func, literal, select, update
from sqlalchemy.dialects.postgresql import INTERVAL, insert
from sqlalchemy.sql import ColumnElement, Select
from sqlalchemy.types import Integer

from tamatar_auth.storage.repositories import Repository
from tamatar_auth.storage.tables import password_attempts

FREE_ATTEMPTS = 3
"""Wrong passwords in a row after which the waits begin: 1 s, 2 s, 4 s, … ."""

MAX_WAIT = timedelta(minutes=15)

MAX_FAILURES = 100
"""Wrong passwords in a row after which only a reset helps (NIST SP 800-63B-4, 3.2.2)."""

_columns = password_attempts.c


def _wait_after(failures: int) -> timedelta:
    """Return the wait after a number of wrong passwords."""
    if failures <= FREE_ATTEMPTS:
        return timedelta(0)
    return min(timedelta(seconds=2 ** min(failures - FREE_ATTEMPTS - 1, 20)), MAX_WAIT)


# PostgreSQL gets a table of the waits, so that Python has the only formula.
_waits = case(
    {count: literal(_wait_after(count), INTERVAL) for count in range(1, 20)},
    value=_columns.failures + 1,
    else_=literal(MAX_WAIT, INTERVAL),
)
_of_account = _columns.account == bindparam("of_account")


def record_statement(now: ColumnElement[datetime]) -> Select[*tuple[Any, ...]]:
    """Build the statement that counts an attempt, if the account's wait is over.

    It returns the failures, or NULL and the seconds to wait.
    """
    new = insert(password_attempts).values(
        account=bindparam("of_account"), user_id=bindparam("of_user"), failures=1, blocked_until=now
    )
    is_free = _columns.failures < FREE_ATTEMPTS
    is_due = (_columns.blocked_until <= now) & (_columns.failures < MAX_FAILURES)
    next_values = {
        "user_id": new.excluded.user_id,
        "failures": _columns.failures + 1,
        "blocked_until": now + _waits,
        "last_tried_at": now,
    }
    counted = (
        new.on_conflict_do_update(
            index_elements=[_columns.account], set_=next_values, where=is_free | is_due
        )
        .returning(_columns.failures)
        .cte("counted")
    )
    # Beyond the limit no wait helps, so a client is asked to retry seldom.
    remaining = case(
        (_columns.failures >= MAX_FAILURES, literal(MAX_WAIT, INTERVAL)),
        else_=_columns.blocked_until - now,
    )
    seconds_left = cast(func.ceil(extract("epoch", remaining)), Integer)
    return select(
        select(counted.c.failures).scalar_subquery(),
        select(seconds_left).where(_of_account).scalar_subquery(),
    ).execution_options(summary="INSERT password_attempts")


# Not `now()`, which is the time before the statement waits for the row.
_record = record_statement(func.clock_timestamp())
_undo = (
    update(password_attempts)
    .where(_of_account, _columns.failures > 0)
    .values(failures=_columns.failures - 1)
    .execution_options(summary="UPDATE password_attempts")
)
_clear = (
    delete(password_attempts)
    .where(_of_account)
    .execution_options(summary="DELETE password_attempts")
)


class LoginAttemptRepository(Repository):
    """Counts attempts over one connection."""

    async def record_attempt(self, account: bytes, user_id: UUID | None) -> float | None:
        """Count an attempt and return None, or return the seconds to wait and count nothing.

        Attempts at the same time are counted one after the other. `user_id` is None for an
        address without a user: its row is swept some time after the last attempt.
        """
        values = {"of_account": account, "of_user": user_id}
        failures, seconds = (await self._connection.execute(_record, values)).one()
        if failures is not None:
            return None
        # None: another transaction inserted the row after this statement's snapshot.
        return float(min(max(seconds or 0, 1), MAX_WAIT.total_seconds()))

    async def undo_attempt(self, account: bytes) -> None:
        """Uncount an attempt whose password was not checked.

        The wait that the attempt began stays: the next attempt would have had it anyway.
        """
        await self._connection.execute(_undo, {"of_account": account})

    async def clear(self, account: bytes) -> None:
        """Forget the attempts of an account: its password was right, or is new."""
        await self._connection.execute(_clear, {"of_account": account})
