"""Authentications: the valid session of a token, and how and when its user was authenticated.

ValidateSession has a statement of its own, which many calls share.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, bindparam, exists, func, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import LargeBinary

from tamatar_auth.errors.sessions import SessionUnknown
from tamatar_auth.storage.factor_tables import factors
from tamatar_auth.storage.repositories import Repository
from tamatar_auth.storage.repositories.factors import FactorKind
from tamatar_auth.storage.repositories.session_state import (
    authenticated_at,
    in_grace,
    raise_refusal,
    refusal,
)
from tamatar_auth.storage.repositories.sessions import SESSION_COLUMNS, SessionRow
from tamatar_auth.storage.repositories.token_keys import TokenKey, expires_on_day
from tamatar_auth.storage.repositories.users import USER_COLUMNS, UserRow
from tamatar_auth.storage.tables import sessions, users


class ValidSession(NamedTuple):
    """A session that is valid at this moment, and its user."""

    session: SessionRow
    user: UserRow


@dataclass(frozen=True, slots=True)
class Authentication:
    """A valid session, and what decides whether its user was authenticated well enough."""

    valid: ValidSession
    age: timedelta
    """The time since the user last proved who they are."""
    has_second_factor: bool
    """Whether the user has a confirmed TOTP factor or a passkey."""


def has_second_factor(user_id: ColumnElement[UUID]) -> ColumnElement[bool]:
    """Return the condition for users with a second factor. Recovery codes alone are none."""
    return exists().where(
        factors.c.user_id == user_id,
        factors.c.confirmed_at.is_not(None),
        factors.c.kind != FactorKind.RECOVERY_CODES,
    )


_digest = bindparam("digest", type_=LargeBinary)
_is_current = sessions.c.token_digest == _digest
_works_still = (sessions.c.previous_digest == _digest) & in_grace
_ids_of_token = union_all(
    select(sessions.c.id).where(_is_current, expires_on_day).correlate(None),
    select(sessions.c.id).where(_works_still, expires_on_day).correlate(None),
)
is_of_working_token = (
    (sessions.c.id == _ids_of_token.scalar_subquery())
    & expires_on_day
    & (_is_current | _works_still)  # still, once the row is locked
)
"""Whether a `TokenKey` is the session's present token, or a replaced one that still works."""

_get = (
    select(
        *SESSION_COLUMNS,
        *USER_COLUMNS,
        refusal,
        (func.now() - authenticated_at).label("age"),
        has_second_factor(users.c.id).label("has_second_factor"),
    )
    .join(users, users.c.id == sessions.c.user_id)
    .where(is_of_working_token)
    .execution_options(summary="SELECT sessions users factors")
)


class AuthenticationRepository(Repository):
    """Finds valid sessions over one connection."""

    def __init__(self, connection: AsyncConnection, idle_limit: timedelta | None) -> None:
        super().__init__(connection)
        self._idle_limit = idle_limit

    async def get(self, key: TokenKey) -> Authentication:
        """Return the valid session of a token, or raise what ValidateSession raises."""
        values = {**key.parameters, "idle_limit": self._idle_limit}
        row = await self._one(_get, values, SessionUnknown)
        raise_refusal(row.refusal)
        return Authentication(valid_session(row), row.age, row.has_second_factor)


def valid_session(row: Sequence[Any]) -> ValidSession:
    """Read a row that begins with `SESSION_COLUMNS` and `USER_COLUMNS`."""
    session_end = len(SESSION_COLUMNS)
    user_end = session_end + len(USER_COLUMNS)
    return ValidSession(
        SessionRow._make(row[:session_end]), UserRow._make(row[session_end:user_end])
    )
