"""One-time secrets of users: issued, looked at and taken once."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from tamatar_auth.errors.users import UserTokenInvalid
from tamatar_auth.storage.tables import user_tokens


class TokenPurpose(StrEnum):
    """What a secret is good for."""

    EMAIL_VERIFICATION = "email_verification"
    PASSWORD_RESET = "password_reset"  # noqa: S105 - a purpose


class TokenOwner(NamedTuple):
    """Whose secret it is, and the address it was made for."""

    user_id: UUID
    email: str


_owner_columns = (user_tokens.c.user_id, user_tokens.c.email)


class UserTokenRepository:
    """Issues and takes one-time secrets over one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def issue(
        self, purpose: TokenPurpose, owner: TokenOwner, token_digest: bytes, lifetime: timedelta
    ) -> datetime:
        """Keep a secret in place of the one before, and return when it expires.

        The database answers `UserNotFound`.
        """
        values = {
            "token_digest": token_digest,
            "email": owner.email,
            "created_at": func.now(),
            "expires_at": func.now() + lifetime,
        }
        issued = await self._connection.execute(
            insert(user_tokens)
            .values(user_id=owner.user_id, purpose=purpose, **values)
            .on_conflict_do_update(
                index_elements=[user_tokens.c.user_id, user_tokens.c.purpose], set_=values
            )
            .returning(user_tokens.c.expires_at)
        )
        return issued.scalar_one()

    async def get(self, purpose: TokenPurpose, token_digest: bytes) -> TokenOwner:
        """Return whose secret it is, or raise `UserTokenInvalid`. It stays good."""
        found = await self._connection.execute(
            select(*_owner_columns).where(*_is_valid(purpose, token_digest))
        )
        row = found.one_or_none()
        if row is None:
            raise UserTokenInvalid
        return TokenOwner._make(row)

    async def consume(self, purpose: TokenPurpose, token_digest: bytes) -> TokenOwner:
        """Use a secret up, or raise `UserTokenInvalid`. Of several takers one succeeds."""
        consumed = await self._connection.execute(
            delete(user_tokens).where(*_is_valid(purpose, token_digest)).returning(*_owner_columns)
        )
        row = consumed.one_or_none()
        if row is None:
            raise UserTokenInvalid
        return TokenOwner._make(row)

    async def revoke(self, user_id: UUID) -> None:
        """End every secret of a user."""
        await self._connection.execute(delete(user_tokens).where(user_tokens.c.user_id == user_id))

    async def expiry_of_new(self, lifetime: timedelta) -> datetime:
        """Tell when a secret issued now would expire."""
        return (await self._connection.execute(select(func.now() + lifetime))).scalar_one()


def _is_valid(purpose: TokenPurpose, token_digest: bytes) -> Sequence[ColumnElement[bool]]:
    return (
        user_tokens.c.token_digest == token_digest,
        user_tokens.c.purpose == purpose,
        user_tokens.c.expires_at > func.now(),
    )
