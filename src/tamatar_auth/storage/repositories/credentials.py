"""Credentials: the rows that passwords are checked against, and the changes of them.

`Credentials` is the only row with a password's hash. No servicer returns it to a caller.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Executable,
    Row,
    Select,
    Update,
    bindparam,
    case,
    func,
    select,
    update,
)

from tamatar_auth.errors.factors import InvalidProof, ProofCause
from tamatar_auth.errors.users import Cause, InvalidCredentials, UserTokenInvalid
from tamatar_auth.storage.repositories import Repository
from tamatar_auth.storage.repositories.authentications import has_second_factor
from tamatar_auth.storage.repositories.user_tokens import EmailChange, TokenOwner
from tamatar_auth.storage.repositories.users import USER_COLUMNS, UserRow
from tamatar_auth.storage.tables import users


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """The hash that a password is checked against, and the names that it may not be."""

    user_id: UUID
    email: str | None
    password_hash: str | None
    is_active: bool = False
    username: str | None = None
    first_name: str | None = None
    last_name: str | None = None
    full_name: str | None = None

    @property
    def usable_hash(self) -> str | None:
        """The hash, or None if the user is inactive."""
        return self.password_hash if self.is_active else None

    @property
    def names(self) -> Sequence[str]:
        """The user's names and address, which are no passwords."""
        known = (self.email, self.username, self.first_name, self.last_name, self.full_name)
        return [name for name in known if name]


NO_CREDENTIALS = Credentials(UUID(int=0), None, None)
"""The credentials for an unknown user: every password is wrong."""


def _select_by(column: ColumnElement[Any]) -> Select[Any]:
    names = ("username", "first_name", "last_name", "full_name")
    return (
        select(*users.c["id", "email", "password_hash", "is_active", *names])
        .where(column == bindparam("value", type_=column.type), users.c.deleted_at.is_(None))
        .execution_options(summary="SELECT users")
    )


_by_id = _select_by(users.c.id)
_by_email = _select_by(users.c.email)
_by_username = _select_by(users.c.username)

_update = (
    update(users)
    .where(users.c.id == bindparam("user_id"), users.c.deleted_at.is_(None), users.c.is_active)
    .returning(*USER_COLUMNS)
    .execution_options(summary="UPDATE users")
)
_update_checked = _update.where(users.c.password_hash == bindparam("checked_hash"))
_update_owned = _update.where(users.c.email == bindparam("owner_email"))
_next_version = users.c.version + 1

_signs_in = case((users.c.email_verified, func.now()), else_=users.c.last_login_at)
_has_second_factor = has_second_factor(users.c.id)
_record_sign_in = _update_checked.values(
    last_login_at=case((_has_second_factor, users.c.last_login_at), else_=_signs_in),
    password_hash=bindparam("new_hash"),
).returning(_has_second_factor)
_record_proven_sign_in = _update.values(last_login_at=_signs_in)
_lock_checked = (
    select(users.c.id)
    .where(
        users.c.id == bindparam("user_id"),
        users.c.password_hash == bindparam("checked_hash"),
        users.c.deleted_at.is_(None),
        users.c.is_active,
    )
    .with_for_update(key_share=True)
    .execution_options(summary="SELECT users")
)
_replace = _update_checked.values(password_hash=bindparam("new_hash"), version=_next_version)
# The token was sent to the address, so its holder reads the mailbox.
_reset = _update_owned.values(
    password_hash=bindparam("new_hash"), email_verified=True, version=_next_version
)
_verify_email = _update_owned.values(email_verified=True, version=_next_version)
_change_email = _verify_email.values(email=bindparam("new_email"))


class SignIn(NamedTuple):
    """A user whose password was right, and whether a second factor must be proved too."""

    user: UserRow
    has_second_factor: bool


class CredentialRepository(Repository):
    """Finds and changes credentials over one connection."""

    async def find_by_user_id(self, user_id: UUID) -> Credentials:
        """Return the credentials of a live user, or `NO_CREDENTIALS`."""
        return await self._find(_by_id, user_id)

    async def find_by_email(self, email: str) -> Credentials:
        """Return the credentials of the live user with an address, or `NO_CREDENTIALS`."""
        return await self._find(_by_email, email)

    async def find_by_username(self, username: str) -> Credentials:
        """Return the credentials of the live user with a username, or `NO_CREDENTIALS`."""
        return await self._find(_by_username, username)

    async def record_sign_in(self, checked: Credentials, *, new_hash: str | None = None) -> SignIn:
        """Record that the user signed in, replace its hash if `new_hash` is given, return it.

        A user with an unverified address or a second factor does not sign in yet, but its hash is
        replaced. Raise `InvalidCredentials` if the user is no longer live and active, or has
        another hash than the checked one. The row stays locked until the transaction ends: a
        deletion, a deactivation or a password change happens wholly before or wholly after.
        """
        hashed = new_hash or checked.password_hash
        row = await self._one_checked(_record_sign_in, checked, hashed)
        return SignIn(UserRow._make(row[:-1]), row[-1])

    async def record_proven_sign_in(self, user_id: UUID) -> UserRow:
        """Record that the user of an answered challenge signed in, as `record_sign_in` does.

        Raise `InvalidProof` if the user is no longer live and active.
        """
        failure = InvalidProof(ProofCause.CHANGED_MEANWHILE, user_id)
        row = await self._one(_record_proven_sign_in, {"user_id": user_id}, failure)
        return UserRow._make(row)

    async def lock(self, checked: Credentials) -> None:
        """Lock the user, or raise `InvalidCredentials` as `record_sign_in` does."""
        values = {"user_id": checked.user_id, "checked_hash": checked.password_hash}
        failure = InvalidCredentials(Cause.CHANGED_MEANWHILE, checked.user_id)
        await self._one(_lock_checked, values, failure)

    async def replace(self, checked: Credentials, new_hash: str) -> UserRow:
        """Replace a user's hash, or raise `InvalidCredentials` as `record_sign_in` does."""
        return UserRow._make(await self._one_checked(_replace, checked, new_hash))

    async def reset(self, owner: TokenOwner, new_hash: str) -> UserRow:
        """Replace the hash of a token's owner, and mark the address as verified.

        Raise `UserTokenInvalid` as `verify_email` does.
        """
        return await self._change_owned(_reset, owner, {"new_hash": new_hash})

    async def verify_email(self, owner: TokenOwner) -> UserRow:
        """Mark the address of a token's owner as verified, or raise `UserTokenInvalid`."""
        return await self._change_owned(_verify_email, owner, {})

    async def change_email(self, change: EmailChange) -> UserRow:
        """Set the new address of a token's owner as verified, or raise `UserTokenInvalid`.

        PostgreSQL's constraint raises `EmailTaken`.
        """
        return await self._change_owned(
            _change_email, change.owner, {"new_email": change.new_email}
        )

    async def _find(self, statement: Select[Any], value: object) -> Credentials:
        row = (await self._connection.execute(statement, {"value": value})).one_or_none()
        return Credentials(*row) if row else NO_CREDENTIALS

    async def _one_checked(
        self, statement: Executable, checked: Credentials, new_hash: str | None
    ) -> Row[Any]:
        values = {
            "user_id": checked.user_id,
            "checked_hash": checked.password_hash,
            "new_hash": new_hash,
        }
        failure = InvalidCredentials(Cause.CHANGED_MEANWHILE, checked.user_id)
        return await self._one(statement, values, failure)

    async def _change_owned(
        self, statement: Update, owner: TokenOwner, values: Mapping[str, object]
    ) -> UserRow:
        """Change the active user that owns a token, while it has the token's address."""
        owned = {"user_id": owner.user_id, "owner_email": owner.email, **values}
        return UserRow._make(await self._one(statement, owned, UserTokenInvalid))
