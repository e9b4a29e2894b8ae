"""Sessions: the rows, what finds them and what ends them.

A session is live while it is neither revoked nor expired. The database's clock decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Integer,
    Interval,
    bindparam,
    case,
    cast,
    func,
    insert,
    literal_column,
    select,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import INTERVAL
from sqlalchemy.ext.asyncio import AsyncConnection

from tamatar_auth.errors import Failure
from tamatar_auth.errors.sessions import (
    SessionExpired,
    SessionIdle,
    SessionNotFound,
    SessionRevoked,
    UserInactive,
)
from tamatar_auth.storage.repositories.keyset import (
    KeysetCursor,
    after_condition,
    any_of,
    limit_literal,
)
from tamatar_auth.storage.repositories.session_lists import live_sessions_of_user, sessions_of_user
from tamatar_auth.storage.repositories.users import USER_COLUMNS, UserRow
from tamatar_auth.storage.tables import replaced_tokens, sessions, users


class SessionRow(NamedTuple):
    """A session as everybody may see it."""

    id: UUID
    user_id: UUID
    created_at: datetime
    expires_at: datetime
    last_activity_at: datetime
    revoked_at: datetime | None
    user_agent: str | None
    ip_address: str | None


SESSION_COLUMNS = (
    *(sessions.c[name] for name in SessionRow._fields[:-1]),
    func.host(sessions.c.ip_address).label("ip_address"),
)
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


ROTATION_GRACE = timedelta(seconds=10)
"""How long a token works after it was replaced, so that clients that race go on."""

ACTIVITY_PRECISION = timedelta(minutes=1)
"""How old `last_activity_at` may be before a use of the session is written down."""


def _ago(length: timedelta) -> ColumnElement[datetime]:
    """Tell the moment so long ago, as a part of the statement and not as a value."""
    return func.now() - literal_column(f"interval '{length.total_seconds()} s'", INTERVAL)


live = sessions.c.is_valid & (sessions.c.expires_at > func.now())
in_grace = sessions.c.rotated_at > _ago(ROTATION_GRACE)
is_current = sessions.c.token_digest == bindparam("digest")
is_previous = sessions.c.previous_digest == bindparam("digest")
is_of_token = sessions.c.id == (
    union_all(
        select(sessions.c.id).where(is_current).correlate(None),
        select(replaced_tokens.c.session_id).where(
            replaced_tokens.c.token_digest == bindparam("digest")
        ),
    ).scalar_subquery()
)
"""Whether it is the session that has the token, or had it once.

The id is found before the session is waited for, so that it does not matter how often its
token is replaced meanwhile.
"""
is_idle = sessions.c.last_activity_at <= func.now() - cast(
    bindparam("idle_limit", type_=Interval), INTERVAL
)
"""Whether the session rested too long; None where there is no limit."""

is_stale = sessions.c.last_activity_at <= _ago(ACTIVITY_PRECISION)
"""Whether `last_activity_at` is so old that this use should be written down."""

_refusal_grounds: Sequence[tuple[ColumnElement[bool], type[Failure]]] = (
    (sessions.c.revoked_at.is_not(None), SessionRevoked),
    (sessions.c.expires_at <= func.now(), SessionExpired),
    (is_idle, SessionIdle),
    (users.c.deleted_at.is_not(None) | ~users.c.is_active, UserInactive),
)
refusal = case(
    *(
        (true, literal_column(str(place), Integer))
        for place, (true, _) in enumerate(_refusal_grounds)
    )
).label("refusal")
"""The first reason to refuse a session and its user, as `raise_refusal` reads it, or NULL."""


def raise_refusal(ground: int | None) -> None:
    """Raise `SessionRevoked`, `SessionExpired`, `SessionIdle` or `UserInactive` on a ground."""
    if ground is not None:
        raise _refusal_grounds[ground][1]


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

    async def touch(self, session_ids: Sequence[UUID]) -> None:
        """Write down that sessions are in use, where that was long ago."""
        await self._connection.execute(
            update(sessions)
            .where(
                any_of(sessions.c.id, session_ids),
                is_stale,
            )
            .values(last_activity_at=func.now())
        )

    async def revoke_excess(self, user_id: UUID, limit: int) -> int:
        """End the oldest live sessions of a user beyond a number, and return how many."""
        oldest = (
            select(sessions.c.id)
            .where(sessions.c.user_id == user_id, live)
            .order_by(sessions.c.created_at.desc(), sessions.c.id.desc())
            .offset(limit)
        )
        ended = await self._connection.execute(
            update(sessions)
            .where(sessions.c.id.in_(oldest))
            .values(is_valid=False, revoked_at=func.now())
        )
        return ended.rowcount

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
        found = live_sessions_of_user(user_id, SESSION_COLUMNS)
        page = await self._connection.execute(
            select(*found.c)
            .order_by(found.c.last_activity_at.desc(), found.c.id.desc())
            .limit(limit_literal(limit))
        )
        return [SessionRow._make(row) for row in page]

    async def page(
        self, user_id: UUID, *, include_ended: bool, size: int, after: KeysetCursor | None = None
    ) -> Sequence[SessionRow]:
        """Return up to `size` sessions of a user, the newest first, from a place on."""
        candidates = (sessions_of_user if include_ended else live_sessions_of_user)(
            user_id, SESSION_COLUMNS
        )
        created, key = candidates.c.created_at, candidates.c.id
        statement = select(*candidates.c)
        if after is not None:
            statement = statement.where(after_condition(created, key, after, descending=True))
        page = await self._connection.execute(
            statement.order_by(created.desc(), key.desc()).limit(limit_literal(size))
        )
        return [SessionRow._make(row) for row in page]

    async def revoke(self, session_id: UUID) -> SessionRow:
        """End a session, or raise `SessionNotFound`. An ended one stays as it is."""
        return await self._revoke(sessions.c.id == session_id)

    async def revoke_by_token(self, token_digest: bytes) -> SessionRow:
        """End the session that has a token, or had it once, as `revoke` does."""
        return await self._revoke(is_of_token, digest=token_digest)

    async def revoke_of_user(self, user_id: UUID, *, except_id: UUID | None = None) -> int:
        """End the live sessions of a user, all or all but one, and return how many."""
        statement = update(sessions).where(sessions.c.user_id == user_id, live)
        if except_id is not None:
            statement = statement.where(sessions.c.id != except_id)
        ended = await self._connection.execute(
            statement.values(is_valid=False, revoked_at=func.now())
        )
        return ended.rowcount

    async def _revoke(self, condition: ColumnElement[bool], **values: object) -> SessionRow:
        ended = await self._connection.execute(
            update(sessions)
            .where(condition)
            .values(is_valid=False, revoked_at=func.coalesce(sessions.c.revoked_at, func.now()))
            .returning(*SESSION_COLUMNS),
            values,
        )
        row = ended.one_or_none()
        if row is None:
            raise SessionNotFound
        return SessionRow._make(row)


def valid_session(row: Sequence[Any]) -> ValidSession:
    """Read a row that begins with the columns of a session and those of its user, both good."""
    session_ends = len(SESSION_COLUMNS)
    user_ends = session_ends + len(USER_COLUMNS)
    return ValidSession(
        SessionRow._make(row[:session_ends]), UserRow._make(row[session_ends:user_ends])
    )
