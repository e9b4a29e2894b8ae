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

LONGEST_WAIT = timedelta(minutes=15)

MOST_FAILURES = 100
"""Wrong passwords in a row after which only a reset helps (NIST SP 800-63B-4, 3.2.2)."""

_kept = password_attempts.c

# `now()` is when the statement began; it may have waited for the row since.
_now = func.clock_timestamp()


def _wait(failures: int) -> timedelta:
    """Give the wait after so many wrong passwords."""
    if failures <= FREE_ATTEMPTS:
        return timedelta(0)
    return min(timedelta(seconds=2 ** min(failures - FREE_ATTEMPTS - 1, 20)), LONGEST_WAIT)


# The waits are few enough to be written out, so that there is one formula.
_waits = case(
    {count: literal(_wait(count), INTERVAL) for count in range(1, 20)},
    value=_kept.failures + 1,
    else_=literal(LONGEST_WAIT, INTERVAL),
)


class AttemptRepository:
    """Counts attempts over one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def begin(self, account: bytes, user_id: UUID | None) -> float | None:
        """Count an attempt, or count nothing and return the seconds to wait for the next.

        Of attempts at once each is counted, one after the other. Attempts on an address that
        nobody has (`user_id` is None) are swept some time after the last one.
        """
        is_free = _kept.failures < FREE_ATTEMPTS
        is_due = (_kept.blocked_until <= _now) & (_kept.failures < MOST_FAILURES)
        new = insert(password_attempts).values(
            account=account, user_id=user_id, failures=1, blocked_until=_now
        )
        counted = (
            new.on_conflict_do_update(
                index_elements=[_kept.account],
                set_={
                    "user_id": user_id,
                    "failures": _kept.failures + 1,
                    "blocked_until": _now + _waits,
                    "last_tried_at": _now,
                },
                where=is_free | is_due,
            )
            .returning(_kept.failures)
            .cte("counted")
        )
        # After too many, no wait helps: whoever waits in vain shall do so seldom.
        until = case(
            (_kept.failures >= MOST_FAILURES, literal(LONGEST_WAIT, INTERVAL)),
            else_=_kept.blocked_until - _now,
        )
        left = cast(func.ceil(extract("epoch", until)), Integer)
        blocked = select(left).where(_kept.account == account).scalar_subquery()
        found = await self._connection.execute(
            select(select(counted.c.failures).scalar_subquery(), blocked)
        )
        failures, seconds = found.one()
        if failures is not None:
            return None
        # A row that came into being during the statement is not seen by it: None.
        return float(min(max(seconds or 0, 1), LONGEST_WAIT.total_seconds()))

    async def give_back(self, account: bytes) -> None:
        """Take back the count of an attempt whose password was not looked at after all.

        The wait that it began stays, which is what the next one would have had.
        """
        await self._connection.execute(
            update(password_attempts)
            .where(_kept.account == account, _kept.failures > 0)
            .values(failures=_kept.failures - 1)
        )

    async def forget(self, account: bytes) -> None:
        """Forget the attempts of an account: the password was right, or is a new one."""
        await self._connection.execute(delete(password_attempts).where(_kept.account == account))
