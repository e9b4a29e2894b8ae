"""Conditions on the state of a session: live, idle, refused and why.

A session is live while it is not revoked, expired or idle. The database's clock decides.
"""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import (
    ColumnElement,
    Integer,
    Interval,
    bindparam,
    case,
    cast,
    func,
    literal_column,
)
from sqlalchemy.dialects.postgresql import INTERVAL

from tamatar_auth.errors import Failure
from tamatar_auth.errors.sessions import SessionExpired, SessionIdle, SessionRevoked, UserInactive
from tamatar_auth.storage.tables import sessions, users

ROTATION_GRACE = timedelta(seconds=10)
"""How long a replaced token still works, so that clients that race do not fail."""

ACTIVITY_PRECISION = timedelta(minutes=5)
"""How old `last_activity_at` may be before a use of the session updates it, without an idle limit
or with one of more than 100 minutes."""

IDLE_PRECISION = timedelta(minutes=1)
"""The same with an idle limit of 4 to 20 minutes. It is a quarter of a shorter limit, and a
twentieth of a longer one."""


def _literal(length: timedelta) -> ColumnElement[timedelta]:
    """Return a length of time as a part of the statement's text, not as a parameter."""
    return literal_column(f"interval '{length.total_seconds()} s'", INTERVAL)


def unused_for(length: ColumnElement[timedelta] | timedelta) -> ColumnElement[bool]:
    """Return the condition for sessions whose last known use is as long ago, or longer."""
    return sessions.c.last_activity_at <= func.now() - length


_idle_limit = cast(bindparam("idle_limit", type_=Interval), INTERVAL)


def _part_of_limit(divisor: int) -> ColumnElement[timedelta]:
    return _idle_limit.op("/", return_type=INTERVAL())(literal_column(str(divisor), Integer))


# Without a limit the CASE is NULL, which LEAST ignores.
_precision: ColumnElement[timedelta] = func.least(
    _literal(ACTIVITY_PRECISION),
    case(
        (
            _idle_limit.is_not(None),
            func.greatest(
                func.least(_literal(IDLE_PRECISION), _part_of_limit(4)), _part_of_limit(20)
            ),
        )
    ),
)

in_grace = sessions.c.rotated_at > func.now() - _literal(ROTATION_GRACE)
is_unended = sessions.c.is_valid & (sessions.c.expires_at > func.now())
"""Whether the session is neither revoked nor expired, idle or not."""

is_idle = unused_for(_idle_limit)
"""Whether the session was unused for `idle_limit`; NULL without a limit."""

is_in_use = is_idle.is_not(True)
live = is_unended & is_in_use
is_stale = unused_for(_precision)
"""Whether `last_activity_at` is so old that a use of the session updates it."""

authenticated_at = func.coalesce(sessions.c.authenticated_at, sessions.c.created_at)
"""When the user last proved who they are."""

_refusal_grounds: Sequence[tuple[ColumnElement[bool], type[Failure]]] = (
    (sessions.c.revoked_at.is_not(None), SessionRevoked),
    (sessions.c.expires_at <= func.now(), SessionExpired),
    (is_idle, SessionIdle),
    (users.c.deleted_at.is_not(None) | ~users.c.is_active, UserInactive),
)
refusal = case(
    *(
        (ground, literal_column(str(place), Integer))
        for place, (ground, _) in enumerate(_refusal_grounds)
    )
).label("refusal")
"""The number of the first ground to refuse a session with its user, or NULL."""


def raise_refusal(ground: int | None) -> None:
    """Raise the failure for a value of `refusal`; return if it is None.

    The failures are `SessionRevoked`, `SessionExpired`, `SessionIdle` and `UserInactive`.
    """
    if ground is not None:
        raise _refusal_grounds[ground][1]
