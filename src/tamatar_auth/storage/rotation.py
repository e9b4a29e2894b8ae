"""Rotation: a session's token is replaced by another one, and the one before is recognised."""

from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import func, update
from sqlalchemy.ext.asyncio import AsyncConnection

from tamatar_auth.errors.storage import TransactionConflict
from tamatar_auth.storage.sessions import (
    SESSION_COLUMNS,
    ValidSession,
    good,
    in_grace,
    is_current,
    is_idle,
    is_previous,
    live,
    session_and_user,
    with_user,
)
from tamatar_auth.storage.tables import sessions, users
from tamatar_auth.storage.users import USER_COLUMNS


@dataclass(frozen=True, slots=True)
class NewToken:
    """The token that follows another one, and what it was made of that one with."""

    digest: bytes = field(repr=False)
    nonce: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Rotated:
    """A session whose token was replaced."""

    valid: ValidSession
    is_in_grace: bool
    """Whether the token before the present one still works."""
    nonce: bytes | None = field(repr=False)


# The statements of RefreshSession, built once.
_replacement = (
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
        previous_digest=sessions.c.token_digest,
        rotated_at=func.now(),
        last_activity_at=func.now(),
    )
    .returning(*SESSION_COLUMNS, *USER_COLUMNS)
)
_recognition = with_user.add_columns(
    is_previous.label("is_previous"), in_grace.label("is_in_grace"), sessions.c.rotation_nonce
).where(is_current | is_previous)


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
        statement = _replacement.values(token_digest=new.digest, rotation_nonce=new.nonce)
        values = {"digest": token_digest, "idle_limit": idle_limit}
        row = (await self._connection.execute(statement, values)).one_or_none()
        return ValidSession(*session_and_user(row)) if row else None

    async def find_rotated(
        self, token_digest: bytes, *, idle_limit: timedelta | None = None
    ) -> Rotated:
        """Return the session whose token was replaced, at some time.

        Raise as `SessionRepository.validate` does.
        """
        values = {"digest": token_digest, "idle_limit": idle_limit}
        row = (await self._connection.execute(_recognition, values)).one_or_none()
        valid = good(row)
        if row is None or not row.is_previous:  # it came to be good after `rotate` had looked
            raise TransactionConflict
        return Rotated(valid, bool(row.is_in_grace), row.rotation_nonce)
