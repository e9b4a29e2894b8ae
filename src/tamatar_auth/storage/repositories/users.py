"""Users: the rows, what finds them and what changes them.

A method that is not told otherwise sees live users only. No row of this module holds a
password's hash.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Delete, Row, Select, delete, func, insert, select
from sqlalchemy import update as sql_update
from sqlalchemy.ext.asyncio import AsyncConnection

from tamatar_auth.errors.users import EtagMismatch, RequestIdReused, UserNotDeleted, UserNotFound
from tamatar_auth.storage.repositories.keyset import KeysetCursor, any_of
from tamatar_auth.storage.repositories.user_filters import (
    Deleted,
    UserFilter,
    UserOrder,
    conditions,
    deletion_conditions,
    index_partitions,
)
from tamatar_auth.storage.repositories.user_pages import UserPageQuery
from tamatar_auth.storage.tables import users


class UserRow(NamedTuple):
    """A user as everybody may see it."""

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
"""The one projection of users: every read and every RETURNING uses it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUser:
    """A user to add. Address and name are in their normal form."""

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


class UserStats(NamedTuple):
    """How many users there are, and when the first and the last were created."""

    total: int
    first_created_at: datetime | None
    last_created_at: datetime | None


class UserRepository:
    """Finds and changes users over one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, new: NewUser) -> UserRow:
        """Add a user. The database answers `EmailTaken` or `UsernameTaken`."""
        values = {name: getattr(new, name) for name in NewUser.__dataclass_fields__}
        return await self._fetch_user(insert(users).values(values).returning(*USER_COLUMNS))

    async def find_created_by(self, request_id: UUID, request_digest: bytes) -> UserRow | None:
        """Return the user that the request created, or None.

        Until the transaction ends no other call creates one for it. Raise `RequestIdReused`
        when the request had other content.
        """
        key = func.hashtextextended(str(request_id), 0)
        await self._connection.execute(select(func.pg_advisory_xact_lock(key)))
        # Locked, which is a write: what is found here is answered as done, so its commit has to
        # be confirmed by the standbys too, whatever became of the call that did it.
        found = await self._connection.execute(
            select(*USER_COLUMNS, users.c.request_digest)
            .where(users.c.request_id == request_id)
            .with_for_update(read=True)
        )
        row = found.one_or_none()
        if row is None:
            return None
        *user, digest = row
        if digest != request_digest:
            raise RequestIdReused
        return UserRow._make(user)

    async def get(self, user_id: UUID, *, deleted: Deleted = Deleted.EXCLUDE) -> UserRow:
        """Return the user, or raise `UserNotFound`."""
        return await self._get(users.c.id == user_id, deleted)

    async def get_by_email(self, email: str, *, deleted: Deleted = Deleted.EXCLUDE) -> UserRow:
        """Return the user of an address in its normal form, or raise `UserNotFound`."""
        return await self._get(users.c.email == email, deleted)

    async def get_by_username(
        self, username: str, *, deleted: Deleted = Deleted.EXCLUDE
    ) -> UserRow:
        """Return the user of a name in its normal form, or raise `UserNotFound`."""
        return await self._get(users.c.username == username, deleted)

    async def find_many(self, user_ids: Sequence[UUID]) -> dict[UUID, UserRow]:
        """Return the live users among the ids, by id."""
        found = await self._connection.execute(
            select(*USER_COLUMNS).where(any_of(users.c.id, user_ids), users.c.deleted_at.is_(None))
        )
        return {row.id: UserRow._make(row) for row in found}

    async def page(
        self,
        matching: UserFilter,
        order: UserOrder,
        *,
        size: int,
        after: KeysetCursor | None = None,
    ) -> Sequence[UserRow]:
        """Return up to `size` users that come after a place in the order."""
        if not index_partitions(matching):
            return []
        page = UserPageQuery(USER_COLUMNS, matching, order, size, after)
        is_narrow = await self._any_range_is_narrow(page.width_probes())
        statement = page.sort_matches() if is_narrow else page.scan_index()
        found = await self._connection.execute(statement)
        return [UserRow._make(row) for row in found]

    async def count(self, matching: UserFilter) -> int:
        """Count the users that the filter describes."""
        statement = select(func.count()).select_from(users).where(*conditions(matching))
        return (await self._connection.execute(statement)).scalar_one()

    async def stats(self, matching: UserFilter) -> UserStats:
        """Count the users that the filter describes; tell the first and last creation."""
        created = users.c.created_at
        statement = select(func.count(), func.min(created), func.max(created)).where(
            *conditions(matching)
        )
        return UserStats._make((await self._connection.execute(statement)).one())

    async def update(
        self, user_id: UUID, changes: Mapping[str, object], *, version: int | None = None
    ) -> UserRow:
        """Change columns of a live user; a changed address is unverified.

        Raise `UserNotFound`, or `EtagMismatch` when the user has another version than the
        one that is named. The database answers `EmailTaken` or `UsernameTaken`.
        """
        user = await self._lock(user_id, version)
        return await self._change(user, _unverify_changed_email(user, changes))

    async def set_active(self, user_id: UUID, *, active: bool) -> UserRow:
        """Let a live user sign in, or bar it. Raise `UserNotFound`.

        A user that is so already keeps its version: nothing was changed.
        """
        user = await self._lock(user_id)
        return user if user.is_active is active else await self._change(user, {"is_active": active})

    async def delete(
        self, user_id: UUID, *, deleted_by: str | None, version: int | None = None
    ) -> UserRow:
        """Delete a live user so that it can be restored.

        Raise `UserNotFound`, or `EtagMismatch` as `update` does.
        """
        deletion = {"is_active": False, "deleted_at": func.now(), "deleted_by": deleted_by}
        return await self._change(await self._lock(user_id, version), deletion)

    async def restore(self, user_id: UUID, changes: Mapping[str, object]) -> UserRow:
        """Bring a deleted user back, active, with some columns changed on the way.

        Raise `UserNotFound`, or `UserNotDeleted` when it is live. The database answers
        `EmailTaken` or `UsernameTaken`.
        """
        user = await self._lock(user_id, deleted=Deleted.INCLUDE)
        if user.deleted_at is None:
            raise UserNotDeleted
        restoration = {"is_active": True, "deleted_at": None, "deleted_by": None}
        return await self._change(user, restoration | _unverify_changed_email(user, changes))

    async def purge(self, user_id: UUID) -> None:
        """Remove a user, live or deleted, and all that belongs to it, or raise `UserNotFound`."""
        statement: Delete = delete(users).where(users.c.id == user_id)
        if (await self._connection.execute(statement)).rowcount == 0:
            raise UserNotFound

    async def _any_range_is_narrow(self, width_probes: Sequence[Select[Any]]) -> bool:
        for probe in width_probes:
            if (await self._connection.execute(probe)).first() is None:
                return True
        return False

    async def _get(self, condition: ColumnElement[bool], deleted: Deleted) -> UserRow:
        statement: Select[Any] = select(*USER_COLUMNS).where(
            condition, *deletion_conditions(deleted)
        )
        if deleted is not Deleted.EXCLUDE:
            statement = statement.order_by(users.c.deleted_at.desc().nulls_first()).limit(1)
        row = (await self._connection.execute(statement)).one_or_none()
        if row is None:
            raise UserNotFound
        return UserRow._make(row)

    async def _lock(
        self,
        user_id: UUID,
        version: int | None = None,
        *,
        deleted: Deleted = Deleted.EXCLUDE,
    ) -> UserRow:
        """Return the user, whom nobody else changes until the transaction ends.

        What is decided of it is decided of the row that is changed. Raise `UserNotFound`, or
        `EtagMismatch` when it has another version than the one that is named.
        """
        found = await self._connection.execute(
            select(*USER_COLUMNS)
            .where(users.c.id == user_id, *deletion_conditions(deleted))
            .with_for_update(key_share=True)
        )
        row = found.one_or_none()
        if row is None:
            raise UserNotFound
        if version not in {None, row.version}:
            raise EtagMismatch
        return UserRow._make(row)

    async def _change(self, user: UserRow, values: Mapping[str, object]) -> UserRow:
        versioned = {**values, "version": users.c.version + 1}
        return await self._fetch_user(
            sql_update(users)
            .where(users.c.id == user.id)
            .values(versioned)
            .returning(*USER_COLUMNS)
        )

    async def _fetch_user(self, statement: Any) -> UserRow:
        row: Row[Any] = (await self._connection.execute(statement)).one()
        return UserRow._make(row)


def _unverify_changed_email(user: UserRow, changes: Mapping[str, object]) -> dict[str, object]:
    """Take another address as unverified."""
    if changes.get("email", user.email) == user.email:
        return dict(changes)
    return {"email_verified": False, **changes}
