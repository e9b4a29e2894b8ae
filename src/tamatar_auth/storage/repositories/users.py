"""Users: their rows, and the statements that find and change one user.

A method sees live users only, unless its `deleted` parameter says otherwise. No row of this
module holds a password's hash.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Select,
    Text,
    bindparam,
    delete,
    func,
    insert,
    select,
    union_all,
    update,
)

from tamatar_auth.errors.users import EtagMismatch, RequestIdReused, UserNotDeleted, UserNotFound
from tamatar_auth.storage.repositories import Repository, any_of, limit_literal
from tamatar_auth.storage.repositories.user_filters import (
    Deleted,
    deletion_conditions,
    deletion_parts,
)
from tamatar_auth.storage.tables import users


class UserRow(NamedTuple):
    """The columns of a user that callers may see."""

    id: UUID
    email: str
    username: str | None
    first_name: str | None
    last_name: str | None
    full_name: str
    avatar_url: str | None
    email_verified: bool
    is_active: bool
    version: int
    created_at: datetime
    updated_at: datetime
    last_login_at: datetime | None
    deleted_at: datetime | None
    deleted_by: str | None


USER_COLUMNS = tuple(users.c[name] for name in UserRow._fields)
"""The columns of every SELECT and every RETURNING of users."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUser:
    """A user to add. The address and the username are in their normal form."""

    id: UUID
    email: str
    username: str | None = None
    password_hash: str | None = field(default=None, repr=False)
    first_name: str | None = None
    last_name: str | None = None
    avatar_url: str | None = None
    email_verified: bool = False
    request_id: UUID | None = None
    request_digest: bytes | None = None


def _select_by(column: ColumnElement[Any], deleted: Deleted) -> Select[Any]:
    """Build the statement for the user with a unique value: the live user goes first."""
    value = bindparam("value", type_=column.type)
    # One SELECT for each index: live and deleted users are in different ones.
    found = [
        select(*USER_COLUMNS).where(column == value, *deletion_conditions(part))
        for part in deletion_parts(deleted)
    ]
    if deleted is Deleted.EXCLUDE:
        return found[0].execution_options(summary="SELECT users")
    union = union_all(*found).subquery("found")
    latest = select(*union.c).order_by(union.c.deleted_at.desc().nulls_first())
    return latest.limit(limit_literal(1)).execution_options(summary="SELECT users")


_by_id = {deleted: _select_by(users.c.id, deleted) for deleted in Deleted}
_by_email = {deleted: _select_by(users.c.email, deleted) for deleted in Deleted}
_by_username = {deleted: _select_by(users.c.username, deleted) for deleted in Deleted}
_locked = {
    deleted: select(*USER_COLUMNS)
    .where(users.c.id == bindparam("user_id"), *deletion_conditions(deleted))
    .with_for_update(key_share=True)
    .execution_options(summary="SELECT users")
    for deleted in Deleted
}
_by_ids = (
    select(*USER_COLUMNS)
    .where(any_of(users.c.id, "user_ids"), users.c.deleted_at.is_(None))
    .execution_options(summary="SELECT users")
)
_lock_request_id = select(
    func.pg_advisory_xact_lock(func.hashtextextended(bindparam("request_id", type_=Text), 0))
).execution_options(summary="SELECT")
# The lock makes the transaction a write, so its commit waits for the standbys. The commit that
# created the user may have been cut off before the standbys confirmed it.
_created_by = (
    select(*USER_COLUMNS, users.c.request_digest)
    .where(users.c.request_id == bindparam("request_id"))
    .with_for_update(read=True)
    .execution_options(summary="SELECT users")
)
_insert = insert(users).returning(*USER_COLUMNS).execution_options(summary="INSERT users")
_update = (
    update(users)
    .where(users.c.id == bindparam("user_id"))
    .values(version=users.c.version + 1)
    .returning(*USER_COLUMNS)
    .execution_options(summary="UPDATE users")
)
_mark_deleted = _update.values(is_active=False, deleted_at=func.now())
_purge = (
    delete(users)
    .where(users.c.id == bindparam("user_id"))
    .execution_options(summary="DELETE users")
)


class UserRepository(Repository):
    """Finds and changes a user over one connection."""

    async def add(self, new: NewUser) -> UserRow:
        """Add a user. PostgreSQL's constraints raise `EmailTaken` and `UsernameTaken`."""
        values = {name: getattr(new, name) for name in NewUser.__dataclass_fields__}
        return UserRow._make((await self._connection.execute(_insert, values)).one())

    async def find_created_by(self, request_id: UUID, request_digest: bytes) -> UserRow | None:
        """Return the user that the request created, or None.

        No other call creates a user for the request before the transaction ends. Raise
        `RequestIdReused` if the request had other content.
        """
        await self._connection.execute(_lock_request_id, {"request_id": str(request_id)})
        found = await self._connection.execute(_created_by, {"request_id": request_id})
        row = found.one_or_none()
        if row is None:
            return None
        *user, digest = row
        if digest != request_digest:
            raise RequestIdReused
        return UserRow._make(user)

    async def get(self, user_id: UUID, *, deleted: Deleted = Deleted.EXCLUDE) -> UserRow:
        """Return the user, or raise `UserNotFound`."""
        return await self._get(_by_id[deleted], user_id)

    async def get_by_email(self, email: str, *, deleted: Deleted = Deleted.EXCLUDE) -> UserRow:
        """Return the user with an address in its normal form, or raise `UserNotFound`."""
        return await self._get(_by_email[deleted], email)

    async def get_by_username(
        self, username: str, *, deleted: Deleted = Deleted.EXCLUDE
    ) -> UserRow:
        """Return the user with a username in its normal form, or raise `UserNotFound`."""
        return await self._get(_by_username[deleted], username)

    async def find_many(self, user_ids: Sequence[UUID]) -> dict[UUID, UserRow]:
        """Return the live users among the ids, by id."""
        found = await self._connection.execute(_by_ids, {"user_ids": list(user_ids)})
        return {row.id: UserRow._make(row) for row in found}

    async def lock(
        self, user_id: UUID, version: int | None = None, *, deleted: Deleted = Deleted.EXCLUDE
    ) -> UserRow:
        """Return the user, and lock its row until the transaction ends.

        Raise `UserNotFound`, or `EtagMismatch` if the user has another version than `version`.
        """
        row = await self._one(_locked[deleted], {"user_id": user_id}, UserNotFound)
        if version not in {None, row.version}:
            raise EtagMismatch
        return UserRow._make(row)

    async def update(
        self, user_id: UUID, changes: Mapping[str, object], *, version: int | None = None
    ) -> UserRow:
        """Change columns of a live user; a changed address becomes unverified.

        Raise `UserNotFound`, or `EtagMismatch` if the user has another version than `version`.
        PostgreSQL's constraints raise `EmailTaken` and `UsernameTaken`.
        """
        user = await self.lock(user_id, version)
        return await self._change(user, _unverify_changed_email(user, changes))

    async def set_active(self, user_id: UUID, *, active: bool) -> UserRow:
        """Allow or forbid a live user to sign in, or raise `UserNotFound`.

        The version stays the same if nothing changes.
        """
        user = await self.lock(user_id)
        return user if user.is_active is active else await self._change(user, {"is_active": active})

    async def delete(
        self, user_id: UUID, *, deleted_by: str | None, version: int | None = None
    ) -> UserRow:
        """Mark a live user as deleted. `restore` undoes it.

        Raise `UserNotFound` or `EtagMismatch`, as `update` does.
        """
        user = await self.lock(user_id, version)
        values = {"user_id": user.id, "deleted_by": deleted_by}
        return UserRow._make((await self._connection.execute(_mark_deleted, values)).one())

    async def restore(self, user_id: UUID, changes: Mapping[str, object]) -> UserRow:
        """Make a deleted user live and active again, and change some of its columns.

        Raise `UserNotFound`, or `UserNotDeleted` if the user is live. PostgreSQL's constraints
        raise `EmailTaken` and `UsernameTaken`.
        """
        user = await self.lock(user_id, deleted=Deleted.INCLUDE)
        if user.deleted_at is None:
            raise UserNotDeleted
        restoration = {"is_active": True, "deleted_at": None, "deleted_by": None}
        return await self._change(user, restoration | _unverify_changed_email(user, changes))

    async def purge(self, user_id: UUID) -> None:
        """Remove a user, live or deleted, with all its rows, or raise `UserNotFound`."""
        if (await self._connection.execute(_purge, {"user_id": user_id})).rowcount == 0:
            raise UserNotFound

    async def _get(self, statement: Select[Any], value: object) -> UserRow:
        return UserRow._make(await self._one(statement, {"value": value}, UserNotFound))

    async def _change(self, user: UserRow, values: Mapping[str, object]) -> UserRow:
        changed = await self._connection.execute(_update, {"user_id": user.id, **values})
        return UserRow._make(changed.one())


def _unverify_changed_email(user: UserRow, changes: Mapping[str, object]) -> dict[str, object]:
    """Return the changes, and that a changed address is not verified."""
    if changes.get("email", user.email) == user.email:
        return dict(changes)
    return {"email_verified": False, **changes}
