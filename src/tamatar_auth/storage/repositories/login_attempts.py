"""Login attempts: reservations to check a password, and the wrong passwords in a row.

A call reserves an attempt before it checks a password, and settles it afterwards. Only a wrong
password is a failure. Failures and reservations together are limited, so attempts at the same
time check no more passwords than attempts one after the other.

The counter of what was typed has the reservations and the waits. The counter of the account has
the failures under all names of a user, and no waits: at `MAX_FAILURES` the password is disabled.
Its row is locked before the row of what was typed, so that attempts do not deadlock.
"""

from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import bindparam, case, cast, delete, extract, func, literal, select, update
from sqlalchemy.dialects.postgresql import INTERVAL, insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql import ColumnElement, Select
from sqlalchemy.types import Integer, LargeBinary, Uuid

from tamatar_auth.storage.repositories import Repository
from tamatar_auth.storage.tables import password_attempts

FREE_ATTEMPTS = 3
"""Wrong passwords in a row after which the waits begin: 1 s, 2 s, 4 s, … ."""

MAX_WAIT = timedelta(minutes=15)

MAX_FAILURES = 100
"""Wrong passwords in a row after which only a reset helps (NIST SP 800-63B-4, 3.2.2)."""

RESERVATION_LIFETIME = timedelta(seconds=30)
"""How long a reservation counts that is never settled, because its process was killed."""

_columns = password_attempts.c


class AttemptKeys(NamedTuple):
    """The two counters of an attempt; `user_id` is None if no user has what was typed."""

    typed: bytes
    account: bytes
    user_id: UUID | None
    typed_user_id: UUID | None = None
    """The user whose counter is that of what was typed, if it is kept as long as the account's.
    None for names, so that nothing links them to the user."""

    def __repr__(self) -> str:
        return "AttemptKeys()"


class Reservation(NamedTuple):
    """The answer to a request for an attempt.

    Without `is_granted` and `wait`, other attempts are in progress: ask again when one is settled.
    """

    is_granted: bool
    wait: float | None
    """Seconds after which the next attempt may be reserved."""
    is_disabled: bool
    """Whether the account has so many failures that no password is right."""


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
_typed = bindparam("typed", type_=LargeBinary)
_account = bindparam("of_account", type_=LargeBinary)
_typed_user = bindparam("typed_user_id", type_=Uuid)
_of_typed, _of_account = _columns.account == _typed, _columns.account == _account
_one_less = func.greatest(_columns.pending - 1, 0)


def reserve_statement(now: ColumnElement[datetime]) -> Select[*tuple[Any, ...]]:
    """Build the statement that reserves an attempt.

    It returns whether it did, the seconds to wait or NULL, and whether the account is disabled.
    """
    lapse = now + literal(RESERVATION_LIFETIME, INTERVAL)
    pending = case((_columns.pending_until > now, _columns.pending), else_=0)
    has_room = (_columns.failures + pending <= FREE_ATTEMPTS) | (pending == 0)
    new = insert(password_attempts).values(
        account=_typed, failures=0, blocked_until=now, pending=1, pending_until=lapse
    )
    reserved = (
        new.on_conflict_do_update(
            index_elements=[_columns.account],
            set_={"pending": pending + 1, "pending_until": lapse, "last_tried_at": now},
            where=(_columns.blocked_until <= now) & has_room,
        )
        .returning(_columns.account)
        .cte("reserved")
    )
    seconds = cast(func.ceil(extract("epoch", _columns.blocked_until - now)), Integer)
    return select(
        select(func.count()).select_from(reserved).scalar_subquery(),
        select(seconds).where(_of_typed, _columns.blocked_until > now).scalar_subquery(),
        select(_columns.failures >= MAX_FAILURES).where(_of_account).scalar_subquery(),
    ).execution_options(summary="INSERT password_attempts")


def failure_statement(now: ColumnElement[datetime]) -> Select[*tuple[Any, ...]]:
    """Build the statement that turns a reservation into a failure of both counters."""
    counted = {"failures": _columns.failures + 1, "last_tried_at": now}
    of_account = insert(password_attempts).values(
        account=_account,
        user_id=bindparam("user_id", type_=Uuid),
        failures=1,
        blocked_until=now,
    )
    account = (
        of_account.on_conflict_do_update(index_elements=[_columns.account], set_=counted)
        .returning(_columns.failures)
        .cte("account")
    )
    # From the other row, so that PostgreSQL locks that one first.
    of_typed = insert(password_attempts).from_select(
        ["account", "user_id", "failures", "blocked_until"],
        select(_typed, _typed_user, literal(1), now).select_from(account),
    )
    typed = (
        of_typed.on_conflict_do_update(
            index_elements=[_columns.account],
            set_=counted
            | {"user_id": _typed_user, "blocked_until": now + _waits, "pending": _one_less},
        )
        .returning(_columns.failures)
        .cte("typed")
    )
    return select(typed.c.failures).execution_options(summary="INSERT password_attempts")


# Not `now()`, which is the time before the statement waits for the row.
_now = func.clock_timestamp()
_reserve, _record_failure = reserve_statement(_now), failure_statement(_now)
_release = (
    update(password_attempts)
    .where(_of_typed)
    .values(pending=_one_less)
    .execution_options(summary="UPDATE password_attempts")
)

# A failure at the same time may have disabled the account: the lock shows the latest state.
_locked = select(_columns.failures).where(_of_account).with_for_update().cte("account")
_is_disabled = select(_locked.c.failures).where(_locked.c.failures >= MAX_FAILURES).exists()
_forget = delete(password_attempts).where(_of_typed | _of_account, ~_is_disabled)
_record_success = (
    select(~_is_disabled)
    .add_cte(_forget.cte("forgotten"))
    .execution_options(summary="DELETE password_attempts")
)
_clear = (
    delete(password_attempts)
    .where(_of_account)
    .execution_options(summary="DELETE password_attempts")
)


class LoginAttemptRepository(Repository):
    """Reserves and settles attempts over one connection."""

    async def reserve(self, keys: AttemptKeys) -> Reservation:
        """Reserve an attempt if the failures and the other reservations allow one."""
        values = {"typed": keys.typed, "of_account": keys.account}
        granted, seconds, disabled = (await self._connection.execute(_reserve, values)).one()
        is_blocked = not granted and seconds is not None
        return Reservation(
            is_granted=bool(granted),
            wait=float(min(max(seconds, 1), MAX_WAIT.total_seconds())) if is_blocked else None,
            is_disabled=bool(disabled),
        )

    async def release(self, keys: AttemptKeys) -> None:
        """End a reservation whose password was not checked."""
        await self._connection.execute(_release, {"typed": keys.typed})

    async def record_failure(self, keys: AttemptKeys) -> None:
        """End a reservation whose password was wrong, and begin the wait for the next one.

        A row without a user is swept some time after the last attempt.
        """
        users = {"user_id": keys.user_id, "typed_user_id": keys.typed_user_id}
        values = {"typed": keys.typed, "of_account": keys.account}
        try:
            await self._connection.execute(_record_failure, values | users)
        except IntegrityError:  # the user was purged during the check
            await self._connection.execute(_record_failure, values | dict.fromkeys(users))

    async def record_success(self, keys: AttemptKeys) -> bool:
        """End a reservation whose password was right, and forget the failures of both counters.

        Return False, and change nothing, if the account is disabled.
        """
        values = {"typed": keys.typed, "of_account": keys.account}
        return bool((await self._connection.execute(_record_success, values)).scalar_one())

    async def clear(self, *accounts: bytes) -> None:
        """Forget the failures of counters, in this order, because the password is new."""
        for account in accounts:
            await self._connection.execute(_clear, {"of_account": account})
