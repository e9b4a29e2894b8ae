"""The sessions of a user, found so that those of others and its ended ones cost nothing."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, FromClause, func, select, true, tuple_

from tamatar_auth.storage.tables import sessions

Columns = Sequence[ColumnElement[Any]]


def sessions_of_user(user_id: UUID, columns: Columns) -> FromClause:
    """Find the sessions of a user, live and ended."""
    return select(*columns).where(sessions.c.user_id == user_id).subquery("found")


def live_sessions_of_user(user_id: UUID, columns: Columns) -> FromClause:
    """Find the live sessions of a user, whose number is bounded, before they are sorted.

    Materialized, or else all its ended ones might be passed on the way along an order. That
    they are live is said of a row of idx_session_user_valid: with other words the planner may
    take the sessions of everybody that are not expired.
    """
    keys = (sessions.c.is_valid, sessions.c.expires_at)
    found = (
        select(*columns)
        .where(sessions.c.user_id == user_id, tuple_(*keys) > tuple_(true(), func.now()))
        .order_by(*keys)
        .cte("found")
    )
    return found.prefix_with("MATERIALIZED")
