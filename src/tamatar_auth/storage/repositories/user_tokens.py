"""One-time tokens of users: issued, read and consumed once."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Interval, bindparam, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from tamatar_auth.errors.users import UserTokenInvalid
from tamatar_auth.storage.repositories import Repository
from tamatar_auth.storage.tables import user_tokens


class TokenPurpose(StrEnum):
    """The use of a token."""

    EMAIL_VERIFICATION = "email_verification"
    PASSWORD_RESET = "password_reset"  # noqa: S105 - a purpose


class TokenOwner(NamedTuple):
    """The user of a token, and the address that the token was issued for."""

    user_id: UUID
    email: str


_columns = user_tokens.c
_owner_columns = (_columns.user_id, _columns.email)
_expiry = func.now() + bindparam("lifetime", type_=Interval)
_is_valid = (
    (_columns.token_digest == bindparam("digest"))
    & (_columns.purpose == bindparam("of_purpose"))
    & (_columns.expires_at > func.now())
)

_new = insert(user_tokens).values(created_at=func.now(), expires_at=_expiry)
_issue = (
    _new.on_conflict_do_update(
        index_elements=[_columns.user_id, _columns.purpose],
        set_={
            name: _new.excluded[name]
            for name in ("token_digest", "email", "created_at", "expires_at")
        },
    )
    .returning(_columns.expires_at)
    .execution_options(summary="INSERT user_tokens")
)
_find = select(*_owner_columns).where(_is_valid).execution_options(summary="SELECT user_tokens")
_consume = (
    delete(user_tokens)
    .where(_is_valid)
    .returning(*_owner_columns)
    .execution_options(summary="DELETE user_tokens")
)
_revoke = (
    delete(user_tokens)
    .where(_columns.user_id == bindparam("owner_id"))
    .execution_options(summary="DELETE user_tokens")
)
_expiry_of_new = select(_expiry).execution_options(summary="SELECT")


class UserTokenRepository(Repository):
    """Issues and consumes one-time tokens over one connection."""

    async def issue(
        self, purpose: TokenPurpose, owner: TokenOwner, token_digest: bytes, lifetime: timedelta
    ) -> datetime:
        """Store a token in place of the owner's previous one, and return when it expires.

        A constraint raises `UserNotFound`.
        """
        values = {
            "user_id": owner.user_id,
            "email": owner.email,
            "purpose": purpose,
            "token_digest": token_digest,
            "lifetime": lifetime,
        }
        return (await self._connection.execute(_issue, values)).scalar_one()

    async def get(self, purpose: TokenPurpose, token_digest: bytes) -> TokenOwner:
        """Return the owner of a token, or raise `UserTokenInvalid`. The token stays valid."""
        values = {"of_purpose": purpose, "digest": token_digest}
        return TokenOwner._make(await self._one(_find, values, UserTokenInvalid))

    async def consume(self, purpose: TokenPurpose, token_digest: bytes) -> TokenOwner:
        """Delete a token and return its owner, or raise `UserTokenInvalid`.

        One of several calls at the same time succeeds.
        """
        values = {"of_purpose": purpose, "digest": token_digest}
        return TokenOwner._make(await self._one(_consume, values, UserTokenInvalid))

    async def revoke(self, user_id: UUID) -> None:
        """Delete every token of a user."""
        await self._connection.execute(_revoke, {"owner_id": user_id})

    async def expiry_of_new(self, lifetime: timedelta) -> datetime:
        """Return when a token issued now would expire."""
        found = await self._connection.execute(_expiry_of_new, {"lifetime": lifetime})
        return found.scalar_one()
