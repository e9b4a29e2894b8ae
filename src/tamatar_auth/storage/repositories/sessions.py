"""Sessions: their rows, and the statements that find and end them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    DateTime,
    Select,
    any_,
    bindparam,
    func,
    insert,
    select,
    true,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import ARRAY, Integer, Uuid

from tamatar_auth.errors.sessions import SessionNotFound
from tamatar_auth.storage.repositories import (
    KeysetCursor,
    Repository,
    after_condition,
    any_of,
    limit_literal,
)
from tamatar_auth.storage.repositories.session_state import (
    authenticated_at,
    is_in_use,
    is_stale,
    is_unended,
    live,
)
from tamatar_auth.storage.repositories.token_keys import (
    TokenKey,
    expires_on_day,
    was_replaced_on_day,
)
from tamatar_auth.storage.tables import replaced_tokens, sessions, users


class SessionRow(NamedTuple):
    """The columns of a session that callers may see."""

    id: UUID
    user_id: UUID
    created_at: datetime
    expires_at: datetime
    last_activity_at: datetime
    revoked_at: datetime | None
    user_agent: str | None
    authentication_methods: str
    ip_address: str | None
    authenticated_at: datetime


SESSION_COLUMNS = (
    *(sessions.c[name] for name in SessionRow._fields[:-2]),
    func.host(sessions.c.ip_address).label("ip_address"),
    authenticated_at.label("authenticated_at"),
)
"""The columns of every SELECT and every RETURNING of sessions, without a token's digest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSession:
    """A session to add."""

    id: UUID
    user_id: UUID
    token_digest: bytes = field(repr=False)
    expires_at: datetime
    authentication_methods: str = "pwd"
    """The text of `Methods`."""
    user_agent: str | None = None
    ip_address: str | None = None


_of_user = sessions.c.user_id == bindparam("owner_id")
_all_of_user = select(*SESSION_COLUMNS).where(_of_user).subquery("found")
_index_keys = (sessions.c.is_valid, sessions.c.expires_at)
# Materialized, because a scan in the order of a list could pass all ended sessions first. The
# number of live sessions is bounded. The row comparison fits idx_session_user_valid: other forms
# let the planner read the unexpired sessions of all users. `is_unended` skips the partitions of
# past days.
_live_of_user = (
    select(*SESSION_COLUMNS)
    .where(_of_user, tuple_(*_index_keys) > tuple_(true(), func.now()), is_unended, is_in_use)
    .order_by(*_index_keys)
    .cte("found")
    .prefix_with("MATERIALIZED")
)

is_of_token = expires_on_day & (
    sessions.c.id
    == union_all(
        select(sessions.c.id)
        .where(sessions.c.token_digest == bindparam("digest"), expires_on_day)
        .correlate(None),
        select(replaced_tokens.c.session_id).where(
            replaced_tokens.c.token_digest == bindparam("digest"), was_replaced_on_day
        ),
    ).scalar_subquery()
)
"""Whether the session has the token of a `TokenKey`, or had it once.

The id is found before the row is locked. So a refresh of the token at the same time changes
nothing.
"""

_insert = insert(sessions).returning(*SESSION_COLUMNS).execution_options(summary="INSERT sessions")
_by_id = (
    select(*SESSION_COLUMNS)
    .join_from(sessions, users, users.c.id == sessions.c.user_id)
    .where(sessions.c.id == bindparam("session_id"), users.c.deleted_at.is_(None))
    .execution_options(summary="SELECT sessions")
)
_expires_then = sessions.c.expires_at == any_(
    bindparam("expiry_times", type_=ARRAY(DateTime(timezone=True)))
)
_touch = (
    update(sessions)
    .where(any_of(sessions.c.id, "session_ids"), _expires_then, live, is_stale)
    .values(last_activity_at=func.now())
    .execution_options(summary="UPDATE sessions")
)
end_sessions = (
    update(sessions)
    .values(is_valid=False, revoked_at=func.now())
    .execution_options(summary="UPDATE sessions")
)
# Idle sessions too, so that a longer limit does not revive them.
_end_of_user = end_sessions.where(
    _of_user, is_unended, sessions.c.id.is_distinct_from(bindparam("except_id", type_=Uuid))
).returning(is_in_use)
_end_excess = end_sessions.where(
    _of_user,  # so that the plan joins two short lists, and skips the partitions of past days
    is_unended,
    sessions.c.id.in_(
        select(sessions.c.id)
        .where(_of_user, live)
        .order_by(sessions.c.created_at.desc(), sessions.c.id.desc())
        .offset(bindparam("kept", type_=Integer))
    ),
)
_revoke = (
    update(sessions)
    .values(is_valid=False, revoked_at=func.coalesce(sessions.c.revoked_at, func.now()))
    .returning(*SESSION_COLUMNS)
    .execution_options(summary="UPDATE sessions")
)
_revoke_by_id = _revoke.where(sessions.c.id == bindparam("session_id"))
_revoke_by_token = _revoke.where(is_of_token)


class SessionRepository(Repository):
    """Finds and ends sessions over one connection."""

    def __init__(self, connection: AsyncConnection, idle_limit: timedelta | None) -> None:
        super().__init__(connection)
        self._idle_limit = idle_limit

    async def add(self, new: NewSession) -> SessionRow:
        """Add a session.

        The transaction holds a lock on the user's row, so that no purge overlooks the session.
        """
        values = {name: getattr(new, name) for name in NewSession.__dataclass_fields__}
        added = await self._connection.execute(_insert, values)
        return SessionRow._make(added.one())

    async def touch(self, expiry_times: Mapping[UUID, datetime]) -> None:
        """Set `last_activity_at` of live sessions to now where it is stale.

        The sessions are given by their ids, with the times at which they expire.
        """
        values = {
            "session_ids": [*expiry_times],
            "expiry_times": [*expiry_times.values()],
            "idle_limit": self._idle_limit,
        }
        await self._connection.execute(_touch, values)

    async def revoke_excess(self, user_id: UUID, limit: int) -> int:
        """End the oldest live sessions of a user beyond `limit`, and return how many."""
        values = {"owner_id": user_id, "kept": limit, "idle_limit": self._idle_limit}
        return (await self._connection.execute(_end_excess, values)).rowcount

    async def get(self, session_id: UUID) -> SessionRow:
        """Return a session of a live user, live or ended, or raise `SessionNotFound`."""
        values = {"session_id": session_id}
        return SessionRow._make(await self._one(_by_id, values, SessionNotFound))

    async def recent(self, user_id: UUID, *, limit: int) -> Sequence[SessionRow]:
        """Return the live sessions of a user, the latest activity first."""
        found = _live_of_user.c
        latest = (found.last_activity_at.desc(), found.id.desc())
        return await self._list(
            select(*found).order_by(*latest).limit(limit_literal(limit)), user_id
        )

    async def page(
        self, user_id: UUID, *, include_ended: bool, size: int, after: KeysetCursor | None = None
    ) -> Sequence[SessionRow]:
        """Return up to `size` sessions of a user that come after a cursor, the newest first."""
        found = (_all_of_user if include_ended else _live_of_user).c
        page = select(*found).order_by(found.created_at.desc(), found.id.desc())
        if after is not None:
            page = page.where(after_condition(found.created_at, found.id, after, descending=True))
        return await self._list(page.limit(limit_literal(size)), user_id)

    async def revoke(self, session_id: UUID) -> SessionRow:
        """End a session, or raise `SessionNotFound`. A session that ended before is unchanged."""
        values = {"session_id": session_id}
        return SessionRow._make(await self._one(_revoke_by_id, values, SessionNotFound))

    async def revoke_by_token(self, key: TokenKey) -> SessionRow:
        """End the session that has a token, or had it once, as `revoke` does."""
        found = await self._one(_revoke_by_token, key.parameters, SessionNotFound)
        return SessionRow._make(found)

    async def revoke_of_user(self, user_id: UUID, *, except_id: UUID | None = None) -> int:
        """End the sessions of a user, all or all but one, and return how many were live."""
        values = {"owner_id": user_id, "except_id": except_id, "idle_limit": self._idle_limit}
        return sum((await self._connection.execute(_end_of_user, values)).scalars())

    async def _list(self, statement: Select[Any], user_id: UUID) -> Sequence[SessionRow]:
        named = statement.execution_options(summary="SELECT sessions")
        values = {"owner_id": user_id, "idle_limit": self._idle_limit}
        found = await self._connection.execute(named, values)
        return [SessionRow._make(row) for row in found]
