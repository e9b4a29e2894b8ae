"""The keys of sessions: a token's digest, and the day in which its session expires."""

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, DateTime, bindparam, literal_column

from tamatar_auth.storage.tables import replaced_tokens, sessions

NO_DAY = 0
"""The day of malformed tokens: no session expires then."""

_FIRST_DAY = datetime(2000, 1, 1, tzinfo=UTC)
_DAY, _TICK = timedelta(days=1), timedelta(microseconds=1)
_ANY_TIME = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))


class TokenKey(NamedTuple):
    """The digest of a token, and the day in which its session expires.

    The day lets PostgreSQL read one partition of the sessions.
    """

    digest: bytes
    day: int | None = None
    """The days from 2000-01-01 to its end (UTC), or None if the session may expire at any time."""

    def __repr__(self) -> str:
        return "TokenKey()"

    @property
    def parameters(self) -> dict[str, object]:
        """The values of `digest` and of the parameters of `expires_on_day`."""
        start, end = _ANY_TIME
        if self.day is not None:
            end = _FIRST_DAY + self.day * _DAY
            start, end = end - _DAY, end - _TICK
        return {"digest": self.digest, "day_start": start, "day_end": end}


def _moment(name: str) -> ColumnElement[datetime]:
    return bindparam(name, type_=DateTime(timezone=True))


def is_between(
    column: ColumnElement[datetime], first: ColumnElement[Any], last: ColumnElement[Any]
) -> ColumnElement[bool]:
    """Return the condition for times from the first to the last.

    The planner expects few rows between two unknown times, and would read a day of sessions by
    the index of `expires_at`. It makes no such guess about an OR, and skips partitions by both.
    """
    return (column >= first) & ((column < last) | (column == last))


expires_on_day = is_between(sessions.c.expires_at, _moment("day_start"), _moment("day_end"))
"""Whether the session expires between `day_start` and `day_end`."""

was_replaced_on_day = is_between(
    replaced_tokens.c.expires_at, _moment("day_start"), _moment("day_end")
) | (replaced_tokens.c.expires_at == literal_column("timestamptz '-infinity'"))
"""Whether the replaced token is of such a session, or of one of the release before."""
