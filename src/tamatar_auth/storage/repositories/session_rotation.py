"""Rotation: RefreshSession replaces a session's token, and recognises the tokens before it."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from tamatar_auth.errors.sessions import SessionRevoked, SessionUnknown
from tamatar_auth.errors.storage import TransactionConflict
from tamatar_auth.storage.repositories import Repository
from tamatar_auth.storage.repositories.authentications import (
    AuthenticationRepository,
    ValidSession,
    is_of_working_token,
    valid_session,
)
from tamatar_auth.storage.repositories.session_state import (
    in_grace,
    live,
    raise_refusal,
    refusal,
)
from tamatar_auth.storage.repositories.sessions import (
    SESSION_COLUMNS,
    SessionRow,
    end_sessions,
    is_of_token,
)
from tamatar_auth.storage.repositories.token_keys import TokenKey, expires_on_day
from tamatar_auth.storage.repositories.users import USER_COLUMNS
from tamatar_auth.storage.tables import replaced_tokens, sessions, users


@dataclass(frozen=True, slots=True)
class NewToken:
    """A session's next token, and the nonce that derives it from the present token."""

    digest: bytes = field(repr=False)
    nonce: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class RotatedSession:
    """A valid session whose token was replaced."""

    valid: ValidSession
    is_in_grace: bool
    """Whether the token is the previous one, and still works."""
    nonce: bytes | None = field(repr=False)
    digest: bytes = field(repr=False)
    """The digest of the present token."""


_is_current = sessions.c.token_digest == bindparam("digest")
_is_previous = sessions.c.previous_digest == bindparam("digest")


def _replace_token(is_chosen: ColumnElement[bool], **values: Any) -> Select[*tuple[Any, ...]]:
    """Build the statement that replaces the token of a valid session, and remembers it."""
    changed = (
        update(sessions)
        .where(
            is_chosen,
            live,
            users.c.id == sessions.c.user_id,
            users.c.deleted_at.is_(None),
            users.c.is_active,
        )
        .values(
            token_digest=bindparam("new_digest"),
            previous_digest=sessions.c.token_digest,
            last_activity_at=func.now(),
            **values,
        )
        .returning(
            *(column.label(f"session_{column.name}") for column in SESSION_COLUMNS),
            *(column.label(f"user_{column.name}") for column in USER_COLUMNS),
            sessions.c.previous_digest,
        )
        .cte("changed")
    )
    replaced = select(*changed.c["previous_digest", "session_id", "session_expires_at"])
    remembered = insert(replaced_tokens).from_select(
        ["token_digest", "session_id", "expires_at"], replaced
    )
    found = select(changed).add_cte(remembered.cte("remembered"))
    return found.execution_options(summary="UPDATE sessions")


_rotation = _replace_token(
    _is_current & expires_on_day,
    rotation_nonce=bindparam("new_nonce"),
    rotated_at=func.now(),
)
# Without the time of a rotation no replaced token is in its grace.
_step_up = _replace_token(
    is_of_working_token,
    rotation_nonce=None,
    rotated_at=None,
    authenticated_at=func.now(),
    authentication_methods=bindparam("methods"),
)
_find_by_replaced_token = (
    select(
        *SESSION_COLUMNS,
        *USER_COLUMNS,
        refusal,
        _is_current.label("is_current"),
        (_is_previous & in_grace).label("is_in_grace"),
        sessions.c.rotation_nonce,
        sessions.c.token_digest,
    )
    .join(users, users.c.id == sessions.c.user_id)
    .where(is_of_token)
    .execution_options(summary="SELECT sessions users")
)
_revoke_valid = end_sessions.where(
    sessions.c.id == bindparam("session_id"),
    sessions.c.expires_at == bindparam("expiry_time"),
    sessions.c.is_valid,
)


class RotationRepository(Repository):
    """Replaces the tokens of sessions over one connection."""

    def __init__(self, connection: AsyncConnection, idle_limit: timedelta | None) -> None:
        super().__init__(connection)
        self._idle_limit = idle_limit

    async def rotate(self, key: TokenKey, new: NewToken) -> ValidSession | None:
        """Replace the present token of a session; the old one works for `ROTATION_GRACE` more.

        Return None, and change nothing, if the token is not the present one of a valid session.
        One of several calls at the same time replaces it.
        """
        values = {
            **key.parameters,
            "new_digest": new.digest,
            "new_nonce": new.nonce,
            "idle_limit": self._idle_limit,
        }
        row = (await self._connection.execute(_rotation, values)).one_or_none()
        return valid_session(row) if row else None

    async def step_up(self, key: TokenKey, new_digest: bytes, methods: str) -> ValidSession:
        """Replace the token of a session at once, because its user was authenticated again.

        Return the session with the text of its `Methods`. Raise what ValidateSession raises: of
        several calls at the same time one succeeds, and the token is unknown to the others.
        """
        values = {
            **key.parameters,
            "new_digest": new_digest,
            "methods": methods,
            "idle_limit": self._idle_limit,
        }
        row = (await self._connection.execute(_step_up, values)).one_or_none()
        if row is None:
            await AuthenticationRepository(self._connection, self._idle_limit).get(key)
            raise TransactionConflict  # it was not valid a moment ago
        return valid_session(row)

    async def find_rotated(self, key: TokenKey) -> RotatedSession:
        """Return the session that had the token before its present one.

        Raise `SessionUnknown`, or what `raise_refusal` raises. Raise `TransactionConflict` if
        the token is the present one of a valid session: `rotate` ran before it was valid.
        """
        values = {**key.parameters, "idle_limit": self._idle_limit}
        row = await self._one(_find_by_replaced_token, values, SessionUnknown)
        raise_refusal(row.refusal)
        if row.is_current:
            raise TransactionConflict
        return RotatedSession(
            valid_session(row), bool(row.is_in_grace), row.rotation_nonce, row.token_digest
        )

    async def revoke_reused(self, session: SessionRow) -> None:
        """End a session whose replaced token was used again.

        Raise `SessionRevoked` if the session has ended: one of several calls ends it.
        """
        values = {"session_id": session.id, "expiry_time": session.expires_at}
        if not (await self._connection.execute(_revoke_valid, values)).rowcount:
            raise SessionRevoked
