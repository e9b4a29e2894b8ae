"""The rows of a user's sessions, read without those of others.

Both sources have a parameter `owner_id`.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, FromClause, bindparam, func, select, true, tuple_

from tamatar_auth.storage.tables import sessions

Columns = Sequence[ColumnElement[Any]]


def sessions_of_user(columns: Columns) -> FromClause:
    """Build the source of a user's sessions, live and ended."""
    return select(*columns).where(sessions.c.user_id == bindparam("owner_id")).subquery("found")


def live_sessions_of_user(columns: Columns) -> FromClause:
    """Build the source of a user's live sessions, before they are sorted.

    Their number is bounded. Materialized, because a scan in the order of a list could pass all
    ended sessions first. The row comparison fits idx_session_user_valid: other forms let the
    planner read the unexpired sessions of all users.
    """
    keys = (sessions.c.is_valid, sessions.c.expires_at)
    found = (
        select(*columns)
        .where(
            sessions.c.user_id == bindparam("owner_id"), tuple_(*keys) > tuple_(true(), func.now())
        )
        .order_by(*keys)
        .cte("found")
    )
    return found.prefix_with("MATERIALIZED")
