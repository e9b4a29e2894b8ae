"""Users that come from elsewhere, many in a statement.

A user that an import creates keeps what it was created from: `request_id` stands for its id or
its address, `request_digest` for its content. So the same user is known again, whatever
became of it since.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    Boolean,
    ColumnElement,
    CompoundSelect,
    DateTime,
    FromClause,
    LargeBinary,
    Text,
    Uuid,
    any_,
    column,
    func,
    insert,
    literal,
    select,
    union,
)
from sqlalchemy.dialects.postgresql import insert as insert_or_ignore
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeEngine

from tamatar_auth.errors import Failure
from tamatar_auth.errors.storage import TransactionConflict
from tamatar_auth.errors.users import EmailTaken, ImportedDifferently, UserIdTaken, UsernameTaken
from tamatar_auth.storage.repositories.profiles import ProfileRow
from tamatar_auth.storage.repositories.users import NewUser
from tamatar_auth.storage.tables import user_profiles, users


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImportedUser:
    """A user who is to be imported. Two that are written alike are two."""

    user: NewUser
    profile: ProfileRow
    is_active: bool = True
    created_at: datetime | None = None
    has_given_id: bool = False


class ExistingUser(NamedTuple):
    """A user who is in the way of an arrival, or is the one itself."""

    id: UUID
    email: str
    username: str | None
    request_id: UUID | None
    request_digest: bytes | None
    is_live: bool


Column = tuple[str, TypeEngine[Any], Sequence[Any]]
"""A name, a type and the values."""

# Text has no length: a cast to one would cut what is too long, and say nothing.
_TYPES: dict[str, TypeEngine[Any]] = {
    "id": Uuid(),
    "email": Text(),
    "username": Text(),
    "password_hash": Text(),
    "first_name": Text(),
    "last_name": Text(),
    "avatar_url": Text(),
    "email_verified": Boolean(),
    "request_id": Uuid(),
    "request_digest": LargeBinary(),
}


class ImportRepository:
    """Adds users, and finds those that were there, over one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, imported_users: Sequence[ImportedUser]) -> Collection[ImportedUser]:
        """Add the users that nothing is in the way of, and return them.

        Users of other transactions that are in the way are waited for.
        """
        first: dict[UUID, ImportedUser] = {}
        for imported in imported_users:
            first.setdefault(imported.user.id, imported)
        # In one order everywhere: imports of the same users wait for each other, and none dies.
        ordered = sorted(first.values(), key=lambda imported: imported.user.email)
        rows = _value_table([*_user_columns(ordered), *_import_columns(ordered)])
        values = [rows.c[name] for name in (*_TYPES, "is_active")]
        added = await self._connection.execute(
            insert_or_ignore(users)
            .from_select(
                [*_TYPES, "is_active", "created_at"],
                select(*values, func.coalesce(rows.c.created_at, func.now())),
            )
            .on_conflict_do_nothing()
            .returning(users.c.id)
        )
        return {first[user_id] for user_id in added.scalars()}

    async def add_profiles(self, imported_users: Collection[ImportedUser]) -> None:
        """Add the profiles of users that were added."""
        names = ProfileRow._fields
        rows = _value_table(
            [("user_id", Uuid(), [imported.user.id for imported in imported_users])]
            + [(name, Text(), [getattr(a.profile, name) for a in imported_users]) for name in names]
        )
        await self._connection.execute(
            insert(user_profiles).from_select(["user_id", *names], select(rows))
        )

    async def resolve_conflicts(
        self, imported_users: Sequence[ImportedUser]
    ) -> Mapping[ImportedUser, UUID | Failure]:
        """Tell of each user that was not added which one it is, or why it cannot be one.

        Raise `TransactionConflict` when what was in the way of one has gone meanwhile.
        """
        news = [imported.user for imported in imported_users]
        keys = _any_value([new.request_id for new in news], Uuid())
        known = {
            one.request_id: one for one in await self._find_existing(users.c.request_id == keys)
        }
        others = await self._find_conflicting([new for new in news if new.request_id not in known])
        taken = {unique_value: one for one in others for unique_value in _unique_values(one)}
        return {imported: _resolve_conflict(imported, known, taken) for imported in imported_users}

    async def _find_conflicting(self, new_users: Sequence[NewUser]) -> Sequence[ExistingUser]:
        """Find the users that have what one of the wanted ones only can have."""
        if not new_users:
            return []
        found = await self._connection.execute(_conflicting_ids(new_users))
        return await self._find_existing(users.c.id == _any_value(found.scalars(), Uuid()))

    async def _find_existing(self, condition: ColumnElement[bool]) -> Sequence[ExistingUser]:
        # Locked, which is a write: what is answered as being there has to be confirmed by the
        # standbys too.
        found = await self._connection.execute(
            select(
                *(users.c[name] for name in ExistingUser._fields[:-1]),
                users.c.deleted_at.is_(None),
            )
            .where(condition)
            .with_for_update(read=True, key_share=True)
        )
        return [ExistingUser._make(row) for row in found]


def _unique_values(one: ExistingUser) -> Iterable[tuple[str, Any]]:
    """Tell what no other user can have beside this one."""
    yield "id", one.id
    if one.is_live:
        yield "email", one.email
        yield "username", one.username


def _resolve_conflict(
    imported: ImportedUser,
    known: Mapping[UUID | None, ExistingUser],
    taken: Mapping[tuple[str, Any], ExistingUser],
) -> UUID | Failure:
    new = imported.user
    if (earlier := known.get(new.request_id)) is not None:
        same = earlier.request_digest == new.request_digest
        return earlier.id if same else ImportedDifferently()
    if imported.has_given_id and (namesake := taken.get(("id", new.id))) is not None:
        return namesake.id if namesake.email == new.email else UserIdTaken()
    if ("email", new.email) in taken:
        return EmailTaken()
    if new.username is not None and ("username", new.username) in taken:
        return UsernameTaken()
    raise TransactionConflict


def _conflicting_ids(new_users: Sequence[NewUser]) -> CompoundSelect[Any]:
    """Tell the ids of users that have the id, the address or the username of a wanted one.

    An arm for each index: of several conditions in one, PostgreSQL may use none.
    """
    ids, is_live = select(users.c.id), users.c.deleted_at.is_(None)
    return union(
        ids.where(users.c.id == _any_value([new.id for new in new_users], Uuid())),
        ids.where(users.c.email == _any_value([new.email for new in new_users], Text()), is_live),
        ids.where(
            users.c.username == _any_value([new.username for new in new_users], Text()), is_live
        ),
    )


def _user_columns(imported_users: Sequence[ImportedUser]) -> Iterable[Column]:
    for name, kind in _TYPES.items():
        yield name, kind, [getattr(imported.user, name) for imported in imported_users]


def _import_columns(imported_users: Sequence[ImportedUser]) -> Iterable[Column]:
    yield "is_active", Boolean(), [imported.is_active for imported in imported_users]
    yield (
        "created_at",
        DateTime(timezone=True),
        [imported.created_at for imported in imported_users],
    )


def _any_value(values: Iterable[Any], kind: TypeEngine[Any]) -> Any:
    known = [value for value in values if value is not None]
    return any_(literal(known, ARRAY(kind)))


def _value_table(columns: Sequence[Column]) -> FromClause:
    """Give columns of values as a table: one parameter a column, whatever their length."""
    arrays = [literal(list(values), ARRAY(kind)) for _, kind, values in columns]
    names = [column(name, kind) for name, kind, _ in columns]
    return func.unnest(*arrays).table_valued(*names, name="arrivals").render_derived()
