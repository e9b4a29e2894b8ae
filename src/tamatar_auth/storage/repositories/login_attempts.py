"""Attempts: how many wrong passwords were tried for an account, and how long the next waits.

An attempt is counted before the password is checked, and forgotten when it was right. So any
number of attempts at once cannot check more passwords than the count allows.
"""

from datetime import timedelta
from uuid import UUID

from sqlalchemy import Integer, case, cast, delete, extract, func, literal, select, update
from sqlalchemy.dialects.postgresql import INTERVAL, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from tamatar_auth.storage.tables import password_attempts

FREE_ATTEMPTS = 3
"""Wrong passwords in a row after which the waits begin: 1 s, 2 s, 4 s, … ."""

MAX_WAIT = timedelta(minutes=15)

MAX_FAILURES = 100
"""Wrong passwords in a row after which only a reset helps (NIST SP 800-63B-4, 3.2.2)."""

_columns = password_attempts.c

# `now()` is when the statement began; it may have waited for the row since.
_now = func.clock_timestamp()


def _wait_after(failures: int) -> timedelta:
    """Give the wait after so many wrong passwords."""
    if failures <= FREE_ATTEMPTS:
        return timedelta(0)
    return min(timedelta(seconds=2 ** min(failures - FREE_ATTEMPTS - 1, 20)), MAX_WAIT)


# The waits are few enough to be written out, so that there is one formula.
_waits = case(
    {count: literal(_wait_after(count), INTERVAL) for count in range(1, 20)},
    value=_columns.failures + 1,
    else_=literal(MAX_WAIT, INTERVAL),
)


class LoginAttemptRepository:
    """Counts attempts over one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def record_attempt(self, account: bytes, user_id: UUID | None) -> float | None:
        """Count an attempt, or count nothing and return the seconds to wait for the next.

        Of attempts at once each is counted, one after the other. Attempts on an address that
        nobody has (`user_id` is None) are swept some time after the last one.
        """
        is_free = _columns.failures < FREE_ATTEMPTS
        is_due = (_columns.blocked_until <= _now) & (_columns.failures < MAX_FAILURES)
        new = insert(password_attempts).values(
            account=account, user_id=user_id, failures=1, blocked_until=_now
        )
        counted = (
            new.on_conflict_do_update(
                index_elements=[_columns.account],
                set_={
                    "user_id": user_id,
                    "failures": _columns.failures + 1,
                    "blocked_until": _now + _waits,
                    "last_tried_at": _now,
                },
                where=is_free | is_due,
            )
            .returning(_columns.failures)
            .cte("counted")
        )
        # After too many, no wait helps: whoever waits in vain shall do so seldom.
        remaining = case(
            (_columns.failures >= MAX_FAILURES, literal(MAX_WAIT, INTERVAL)),
            else_=_columns.blocked_until - _now,
        )
        seconds_left = cast(func.ceil(extract("epoch", remaining)), Integer)
        blocked = select(seconds_left).where(_columns.account == account).scalar_subquery()
        found = await self._connection.execute(
            select(select(counted.c.failures).scalar_subquery(), blocked)
        )
        failures, seconds = found.one()
        if failures is not None:
            return None
        # A row that came into being during the statement is not seen by it: None.
        return float(min(max(seconds or 0, 1), MAX_WAIT.total_seconds()))

    async def undo_attempt(self, account: bytes) -> None:
        """Take back the count of an attempt whose password was not looked at after all.

        The wait that it began stays, which is what the next one would have had.
        """
        await self._connection.execute(
            update(password_attempts)
            .where(_columns.account == account, _columns.failures > 0)
            .values(failures=_columns.failures - 1)
        )

    async def clear(self, account: bytes) -> None:
        """Forget the attempts of an account: the password was right, or is a new one."""
        await self._connection.execute(delete(password_attempts).where(_columns.account == account))
