"""Sessions: the rows, what finds them and what ends them.

A session is live while it is neither revoked nor expired. The database's clock decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, bindparam, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from tamatar_auth.errors import (
    SessionExpired,
    SessionNotFound,
    SessionRevoked,
    SessionUnknown,
    UserInactive,
)
from tamatar_auth.storage.paging import After, after_condition
from tamatar_auth.storage.tables import sessions, users
from tamatar_auth.storage.users import USER_COLUMNS, UserRow


class SessionRow(NamedTuple):
    """A session as everybody may see it."""

    id: UUID
    user_id: UUID
    created_at: datetime
    expires_at: datetime
    last_activity_at: datetime
    revoked_at: datetime | None
    user_agent: str | None
    ip_address: IPv4Address | IPv6Address | None


SESSION_COLUMNS = tuple(sessions.c[name] for name in SessionRow._fields)
"""The one projection of sessions: a token's digest is not in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSession:
    """A session to add."""

    id: UUID
    user_id: UUID
    token_digest: bytes = field(repr=False)
    user_agent: str | None = None
    ip_address: str | None = None


class ValidSession(NamedTuple):
    """A session that is good at this moment, and its user."""

    session: SessionRow
    user: UserRow


_live = sessions.c.is_valid & (sessions.c.expires_at > func.now())

# The one statement of ValidateSession, built once.
_validation = (
    select(*SESSION_COLUMNS, (sessions.c.expires_at <= func.now()).label("expired"), *USER_COLUMNS)
    .join(users, users.c.id == sessions.c.user_id)
    .where(sessions.c.token_digest == bindparam("digest"))
)
_user_starts = len(SESSION_COLUMNS) + 1


class SessionRepository:
    """Finds and ends sessions over one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, new: NewSession, lifetime: timedelta) -> SessionRow:
        """Add a session that lives from now on. The database answers `UserNotFound`."""
        added = await self._connection.execute(
            insert(sessions)
            .values(
                id=new.id,
                user_id=new.user_id,
                token_digest=new.token_digest,
                expires_at=func.now() + lifetime,
                user_agent=new.user_agent,
                ip_address=new.ip_address,
            )
            .returning(*SESSION_COLUMNS)
        )
        return SessionRow._make(added.one())

    async def validate(self, token_digest: bytes) -> ValidSession:
        """Return the session of a token and its user, when both are good.

        Raise `SessionUnknown`, `SessionRevoked`, `SessionExpired` or `UserInactive`.
        """
        found = await self._connection.execute(_validation, {"digest": token_digest})
        row = found.one_or_none()
        if row is None:
            raise SessionUnknown
        session = SessionRow._make(row[: len(SESSION_COLUMNS)])
        user = UserRow._make(row[_user_starts:])
        if session.revoked_at is not None:
            raise SessionRevoked
        if row.expired:
            raise SessionExpired
        if user.deleted_at is not None or not user.is_active:
            raise UserInactive
        return ValidSession(session, user)

    async def get(self, session_id: UUID) -> SessionRow:
        """Return the session, live or not, or raise `SessionNotFound`."""
        found = await self._connection.execute(
            select(*SESSION_COLUMNS).where(sessions.c.id == session_id)
        )
        row = found.one_or_none()
        if row is None:
            raise SessionNotFound
        return SessionRow._make(row)

    async def recent(self, user_id: UUID, *, limit: int) -> Sequence[SessionRow]:
        """Return the live sessions of a user, the newest activity first."""
        found = await self._connection.execute(
            select(*SESSION_COLUMNS)
            .where(sessions.c.user_id == user_id, _live)
            .order_by(sessions.c.last_activity_at.desc(), sessions.c.id.desc())
            .limit(limit)
        )
        return [SessionRow._make(row) for row in found]

    async def page(
        self, user_id: UUID, *, include_ended: bool, size: int, after: After | None = None
    ) -> Sequence[SessionRow]:
        """Return up to `size` sessions of a user, the newest first, from a place on."""
        created, key = sessions.c.created_at, sessions.c.id
        statement = select(*SESSION_COLUMNS).where(sessions.c.user_id == user_id)
        if not include_ended:
            statement = statement.where(_live)
        if after is not None:
            statement = statement.where(after_condition(created, key, after, descending=True))
        found = await self._connection.execute(
            statement.order_by(created.desc(), key.desc()).limit(size)
        )
        return [SessionRow._make(row) for row in found]

    async def revoke(self, session_id: UUID) -> SessionRow:
        """End a session, or raise `SessionNotFound`. An ended one stays as it is."""
        return await self._revoke(sessions.c.id == session_id)

    async def revoke_by_token(self, token_digest: bytes) -> SessionRow:
        """End the session of a token, as `revoke` does."""
        return await self._revoke(sessions.c.token_digest == token_digest)

    async def revoke_of_user(self, user_id: UUID, *, but: UUID | None = None) -> int:
        """End the live sessions of a user, all or all but one, and return how many."""
        statement = update(sessions).where(sessions.c.user_id == user_id, _live)
        if but is not None:
            statement = statement.where(sessions.c.id != but)
        ended = await self._connection.execute(
            statement.values(is_valid=False, revoked_at=func.now())
        )
        return ended.rowcount

    async def _revoke(self, which: ColumnElement[bool]) -> SessionRow:
        ended = await self._connection.execute(
            update(sessions)
            .where(which)
            .values(is_valid=False, revoked_at=func.coalesce(sessions.c.revoked_at, func.now()))
            .returning(*SESSION_COLUMNS)
        )
        row = ended.one_or_none()
        if row is None:
            raise SessionNotFound
        return SessionRow._make(row)
