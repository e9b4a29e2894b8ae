"""One-time tokens of users: issued, read and consumed once."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Interval, LargeBinary, String, bindparam, delete, func, literal, select
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql import ColumnElement, Select

from tamatar_auth.errors.users import UserTokenInvalid
from tamatar_auth.storage.repositories import Repository
from tamatar_auth.storage.tables import password_attempts, user_tokens, users


class TokenPurpose(StrEnum):
    """The use of a token."""

    EMAIL_VERIFICATION = "email_verification"
    PASSWORD_RESET = "password_reset"  # noqa: S105 - a purpose
    EMAIL_CHANGE = "email_change"


class TokenOwner(NamedTuple):
    """The user of a token, and the address that the token was issued for."""

    user_id: UUID
    email: str


class EmailChange(NamedTuple):
    """A pending change of address: the owner of its token, and the new address."""

    owner: TokenOwner
    new_email: str


_columns = user_tokens.c
_owner_columns = (_columns.user_id, _columns.email)
_expiry = func.now() + bindparam("lifetime", type_=Interval)
_is_valid = (
    (_columns.token_digest == bindparam("digest"))
    & (_columns.purpose == bindparam("of_purpose"))
    & (_columns.expires_at > func.now())
)


def _replacing(new: Insert, *more: str) -> Insert:
    """Let a new token replace the user's previous one of its purpose, with `more` columns."""
    changed = ("token_digest", "email", "created_at", "expires_at", *more)
    return new.on_conflict_do_update(
        index_elements=[_columns.user_id, _columns.purpose],
        set_={name: new.excluded[name] for name in changed},
    )


_new_token = (
    insert(user_tokens)
    .values(created_at=func.now(), expires_at=_expiry)
    .execution_options(summary="INSERT user_tokens")
)
_issue = _replacing(_new_token).returning(_columns.expires_at)
_issue_change = _replacing(_new_token, "new_email").returning(_columns.expires_at)


def _issue_reset_statement() -> Select[*tuple[Any, ...]]:
    """Build the statement that issues a reset token to the user of an address, if there is one.

    Otherwise it writes a row without a meaning, which is swept. So it takes the same time.
    """
    email = bindparam("email", type_=String)
    is_known = (users.c.email == email) & users.c.deleted_at.is_(None) & users.c.is_active
    known = select(users.c.id).where(is_known).cte("known")
    new: Mapping[str, ColumnElement[Any]] = {
        "user_id": known.c.id,
        "purpose": literal(TokenPurpose.PASSWORD_RESET.value),
        "token_digest": bindparam("digest", type_=LargeBinary),
        "email": email,
        "created_at": func.now(),
        "expires_at": _expiry,
    }
    issued = _replacing(insert(user_tokens).from_select([*new], select(*new.values())))
    owner = issued.returning(_columns.user_id).cte("issued")
    row: Mapping[str, ColumnElement[Any]] = {
        "account": bindparam("stand_in", type_=LargeBinary),
        "failures": literal(0),
        "blocked_until": func.now(),
    }
    is_unknown = ~select(known.c.id).exists()
    stand_in = (
        insert(password_attempts)
        .from_select([*row], select(*row.values()).where(is_unknown))
        .on_conflict_do_update(
            index_elements=[password_attempts.c.account], set_={"last_tried_at": func.now()}
        )
    )
    return (
        select(select(owner.c.user_id).scalar_subquery(), _expiry)
        .add_cte(stand_in.cte("stand_in"))
        .execution_options(summary="INSERT user_tokens")
    )


_issue_reset = _issue_reset_statement()
_find = select(*_owner_columns).where(_is_valid).execution_options(summary="SELECT user_tokens")
_find_change = _find.add_columns(_columns.new_email)
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

    async def issue_change(
        self, change: EmailChange, token_digest: bytes, lifetime: timedelta
    ) -> datetime:
        """Store a token that changes an address, as `issue` does."""
        values = {
            "user_id": change.owner.user_id,
            "email": change.owner.email,
            "new_email": change.new_email,
            "purpose": TokenPurpose.EMAIL_CHANGE,
            "token_digest": token_digest,
            "lifetime": lifetime,
        }
        return (await self._connection.execute(_issue_change, values)).scalar_one()

    async def issue_reset(
        self, email: str, token_digest: bytes, lifetime: timedelta, *, stand_in: bytes
    ) -> tuple[UUID | None, datetime]:
        """Store a reset token for the active user of an address.

        Return the user, or None and store `stand_in` as a key of attempts, and when the token
        expires.
        """
        values = {
            "email": email,
            "digest": token_digest,
            "lifetime": lifetime,
            "stand_in": stand_in,
        }
        try:
            issued = await self._connection.execute(_issue_reset, values)
        except IntegrityError:  # the user was purged at the same time: there is none now
            issued = await self._connection.execute(_issue_reset, values)
        user_id, expires = issued.one()
        return user_id, expires

    async def get(self, purpose: TokenPurpose, token_digest: bytes) -> TokenOwner:
        """Return the owner of a token, or raise `UserTokenInvalid`. The token stays valid."""
        values = {"of_purpose": purpose, "digest": token_digest}
        return TokenOwner._make(await self._one(_find, values, UserTokenInvalid))

    async def get_change(self, token_digest: bytes) -> EmailChange:
        """Return the change of a token, or raise `UserTokenInvalid`. The token stays valid."""
        values = {"of_purpose": TokenPurpose.EMAIL_CHANGE, "digest": token_digest}
        row = await self._one(_find_change, values, UserTokenInvalid)
        return EmailChange(TokenOwner(row.user_id, row.email), row.new_email)

    async def consume(self, purpose: TokenPurpose, token_digest: bytes) -> TokenOwner:
        """Delete a token and return its owner, or raise `UserTokenInvalid`.

        One of several calls at the same time succeeds.
        """
        values = {"of_purpose": purpose, "digest": token_digest}
        return TokenOwner._make(await self._one(_consume, values, UserTokenInvalid))

    async def revoke(self, user_id: UUID) -> None:
        """Delete every token of a user."""
        await self._connection.execute(_revoke, {"owner_id": user_id})
