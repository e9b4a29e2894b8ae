"""Credentials: what passwords are checked against, and what a right one changes.

`Credentials` is the one row that holds a password's hash; nothing hands it out of a servicer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ColumnElement, Update, case, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from tamatar_auth.errors.users import Cause, InvalidCredentials, UserTokenInvalid
from tamatar_auth.storage.repositories.user_tokens import TokenOwner
from tamatar_auth.storage.repositories.users import USER_COLUMNS, UserRow
from tamatar_auth.storage.tables import users


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """What a password is checked against, and what it may not be."""

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
        """The hash that a password may be checked against; none of an inactive user's."""
        return self.password_hash if self.is_active else None

    @property
    def names(self) -> Sequence[str]:
        """The words by which the user is known."""
        known = (self.email, self.username, self.first_name, self.last_name, self.full_name)
        return [name for name in known if name]


NO_CREDENTIALS = Credentials(UUID(int=0), None, None)
"""The credentials of no user: no password is right, no sign-in is recorded."""

_COLUMNS = (
    users.c.id,
    users.c.email,
    users.c.password_hash,
    users.c.is_active,
    users.c.username,
    users.c.first_name,
    users.c.last_name,
    users.c.full_name,
)


class CredentialRepository:
    """Finds and changes credentials over one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def find_by_user_id(self, user_id: UUID) -> Credentials:
        """Return the credentials of a live user, or `NO_CREDENTIALS`."""
        return await self._find(users.c.id == user_id)

    async def find_by_email(self, email: str) -> Credentials:
        """Return the credentials of the live user of an address, or `NO_CREDENTIALS`."""
        return await self._find(users.c.email == email)

    async def find_by_username(self, username: str) -> Credentials:
        """Return the credentials of the live user of a name, or `NO_CREDENTIALS`."""
        return await self._find(users.c.username == username)

    async def record_sign_in(self, checked: Credentials, *, new_hash: str | None = None) -> UserRow:
        """Write down that the user signed in, with a newer hash if there is one; return it.

        A user whose address is not verified does not sign in, but gets the newer hash. Raise
        `InvalidCredentials` when the user is not live and active any more or has another
        password than the one that was checked. The row is locked until the transaction
        ends: a deletion, a deactivation or a change of password comes wholly before or
        wholly after.
        """
        signed_in = case((users.c.email_verified, func.now()), else_=users.c.last_login_at)
        statement = update(users).values(
            last_login_at=signed_in, password_hash=new_hash or checked.password_hash
        )
        return await self._update_checked(statement, checked)

    async def replace(self, checked: Credentials, new_hash: str) -> UserRow:
        """Give a user another password, or raise `InvalidCredentials` as `record_sign_in`."""
        return await self._update_checked(_versioned_update({"password_hash": new_hash}), checked)

    async def reset(self, owner: TokenOwner, new_hash: str) -> UserRow:
        """Give the active user of an address another password, or raise `UserTokenInvalid`."""
        return await self._update_owned(owner, {"password_hash": new_hash})

    async def verify_email(self, owner: TokenOwner) -> UserRow:
        """Take the address of an active user as verified.

        Raise `UserTokenInvalid` when the user has another address by now.
        """
        return await self._update_owned(owner, {"email_verified": True})

    async def _find(self, condition: ColumnElement[bool]) -> Credentials:
        found = await self._connection.execute(
            select(*_COLUMNS).where(condition, users.c.deleted_at.is_(None))
        )
        row = found.one_or_none()
        return Credentials(*row) if row else NO_CREDENTIALS

    async def _update_checked(self, statement: Update, checked: Credentials) -> UserRow:
        row = await self._update_active(
            statement.where(
                users.c.id == checked.user_id, users.c.password_hash == checked.password_hash
            )
        )
        if row is None:
            raise InvalidCredentials(Cause.CHANGED_MEANWHILE, checked.user_id)
        return row

    async def _update_owned(self, owner: TokenOwner, values: Mapping[str, object]) -> UserRow:
        row = await self._update_active(
            _versioned_update(values).where(
                users.c.id == owner.user_id, users.c.email == owner.email
            )
        )
        if row is None:
            raise UserTokenInvalid
        return row

    async def _update_active(self, statement: Update) -> UserRow | None:
        found = await self._connection.execute(
            statement.where(users.c.deleted_at.is_(None), users.c.is_active).returning(
                *USER_COLUMNS
            )
        )
        row = found.one_or_none()
        return UserRow._make(row) if row else None


def _versioned_update(values: Mapping[str, object]) -> Update:
    return update(users).values({**values, "version": users.c.version + 1})
