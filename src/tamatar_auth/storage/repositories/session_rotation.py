"""Rotation: a session's token is replaced by another one, and those before are recognised."""

from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from sqlalchemy import bindparam, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from tamatar_auth.errors.sessions import SessionRevoked, SessionUnknown
from tamatar_auth.errors.storage import TransactionConflict
from tamatar_auth.storage.repositories.sessions import (
    SESSION_COLUMNS,
    ValidSession,
    in_grace,
    is_current,
    is_idle,
    is_of_token,
    is_previous,
    live,
    raise_refusal,
    refusal,
    valid_session,
)
from tamatar_auth.storage.repositories.users import USER_COLUMNS
from tamatar_auth.storage.tables import replaced_tokens, sessions, users


@dataclass(frozen=True, slots=True)
class NewToken:
    """The token that follows another one, and what it was made of that one with."""

    digest: bytes = field(repr=False)
    nonce: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class RotatedSession:
    """A session whose token was replaced."""

    valid: ValidSession
    is_in_grace: bool
    """Whether it was the last one that was replaced, and still works."""
    nonce: bytes | None = field(repr=False)


# The statements of RefreshSession, built once.
_rotate_session = (
    update(sessions)
    .where(
        is_current,
        live,
        is_idle.is_not(True),  # None, where there is no limit, is no reason
        users.c.id == sessions.c.user_id,
        users.c.deleted_at.is_(None),
        users.c.is_active,
    )
    .values(
        token_digest=bindparam("new_digest"),
        rotation_nonce=bindparam("new_nonce"),
        previous_digest=sessions.c.token_digest,
        rotated_at=func.now(),
        last_activity_at=func.now(),
    )
    .returning(
        *(column.label(f"session_{column.name}") for column in SESSION_COLUMNS),
        *(column.label(f"user_{column.name}") for column in USER_COLUMNS),
        sessions.c.previous_digest,
    )
    .cte("changed")
)
_add_replaced_token = (
    insert(replaced_tokens)
    .from_select(
        ["token_digest", "session_id"],
        select(_rotate_session.c.previous_digest, _rotate_session.c.session_id),
    )
    .cte("remembered")
)
_rotation = select(_rotate_session).add_cte(_add_replaced_token)
_find_by_replaced_token = (
    select(
        *SESSION_COLUMNS,
        *USER_COLUMNS,
        refusal,
        is_current.label("is_current"),
        (is_previous & in_grace).label("is_in_grace"),
        sessions.c.rotation_nonce,
    )
    .join(users, users.c.id == sessions.c.user_id)
    .where(is_of_token)
)


class RotationRepository:
    """Replaces the tokens of sessions over one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def rotate(
        self, token_digest: bytes, new: NewToken, *, idle_limit: timedelta | None = None
    ) -> ValidSession | None:
        """Replace the present token of a session; it works for `ROTATION_GRACE` more.

        Return None, and change nothing, where the token is not the present one of a good
        session with a good user. Of several at once, one replaces it.
        """
        values = {
            "digest": token_digest,
            "new_digest": new.digest,
            "new_nonce": new.nonce,
            "idle_limit": idle_limit,
        }
        row = (await self._connection.execute(_rotation, values)).one_or_none()
        return valid_session(row) if row else None

    async def find_rotated(
        self, token_digest: bytes, *, idle_limit: timedelta | None = None
    ) -> RotatedSession:
        """Return the session whose token was replaced, at some time.

        Raise as `SessionValidator.validate` does.
        """
        values = {"digest": token_digest, "idle_limit": idle_limit}
        row = (await self._connection.execute(_find_by_replaced_token, values)).one_or_none()
        if row is None:
            raise SessionUnknown
        raise_refusal(row.refusal)
        if row.is_current:  # it came to be good after `rotate` had looked
            raise TransactionConflict
        return RotatedSession(valid_session(row), bool(row.is_in_grace), row.rotation_nonce)

    async def revoke_reused(self, session_id: UUID) -> None:
        """End a session whose replaced token was used again.

        Raise `SessionRevoked` where it ended meanwhile: of several at once, one ends it.
        """
        ended = await self._connection.execute(
            update(sessions)
            .where(sessions.c.id == session_id, sessions.c.is_valid)
            .values(is_valid=False, revoked_at=func.now())
        )
        if not ended.rowcount:
            raise SessionRevoked
