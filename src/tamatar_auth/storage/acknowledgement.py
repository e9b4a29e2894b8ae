"""SQL about the commits that the standbys of a primary have acknowledged.

A primary that was replaced still answers reads, and reports that it writes. But no synchronous
standby acknowledges its commits any more. So an acknowledged time in `primary_heartbeat` that is
recent, by the primary's own clock, proves that no other server had taken over by then.
"""

from datetime import timedelta

IS_SYNCHRONOUS = "current_setting('synchronous_standby_names') <> ''"
"""Whether commits wait for standbys. Only such commits prove anything."""

INTERVAL_SHARE = 3
"""The row is renewed once it is older than this share of the time within which it counts."""

RETRY_SHARE = 10
"""The same for a renewal that another process has begun and not finished."""


def is_confirmed(within: timedelta) -> str:
    """Return an expression: whether standbys have acknowledged a commit within that time.

    It is true without synchronous standbys. PostgreSQL evaluates it once in a statement.
    """
    if not within:
        return "true"
    condition = _is_within(within)
    newest = f"SELECT max(acknowledged_at) {condition} FROM primary_heartbeat"  # noqa: S608 - a number
    return f"(NOT {IS_SYNCHRONOUS} OR coalesce(({newest}), false))"


def is_due(within: timedelta) -> str:
    """Return a condition: whether the row of the heartbeat must be renewed."""
    return (
        f"NOT acknowledged_at {_is_within(within / INTERVAL_SHARE)}"
        f" AND NOT sent_at {_is_within(within / RETRY_SHARE)}"
    )


def _is_within(length: timedelta) -> str:
    # A time in the future proves nothing: the clock was wrong then, or is wrong now.
    seconds = f"interval '{length.total_seconds()} s'"
    return f"BETWEEN now() - {seconds} AND now() + {seconds}"
