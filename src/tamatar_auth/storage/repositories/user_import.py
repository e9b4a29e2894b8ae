"""Imported users, many in a statement.

`request_id` of an imported user is derived from its id or address in the import, and
`request_digest` from its content. So a repeated import recognises the user, whatever changed
since.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import any_, bindparam, column, func, insert, select, union
from sqlalchemy.dialects.postgresql import insert as insert_or_ignore
from sqlalchemy.sql import ColumnElement, Select
from sqlalchemy.types import ARRAY, String, Text, TypeEngine, Uuid

from tamatar_auth.errors import Failure
from tamatar_auth.errors.storage import TransactionConflict
from tamatar_auth.errors.users import EmailTaken, ImportedDifferently, UserIdTaken, UsernameTaken
from tamatar_auth.storage.repositories import Repository, any_of
from tamatar_auth.storage.repositories.profiles import ProfileRow
from tamatar_auth.storage.repositories.users import NewUser
from tamatar_auth.storage.tables import user_profiles, users


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImportedUser:
    """A user to import. Two objects with equal fields are two users."""

    user: NewUser
    profile: ProfileRow
    is_active: bool = True
    created_at: datetime | None = None
    has_given_id: bool = False


class ExistingUser(NamedTuple):
    """A user that keeps an imported user from being added, or is the same user."""

    id: UUID
    email: str
    username: str | None
    request_id: UUID | None
    request_digest: bytes | None
    is_live: bool


_IMPORT_ONLY = ("is_active", "created_at")
"""Columns that an import sets and a new user does not have."""

# Text without a length: a cast to a type with one would cut long values silently.
_IMPORTED_TYPES: Mapping[str, TypeEngine[Any]] = {
    name: Text() if isinstance(users.c[name].type, String) else users.c[name].type
    for name in (*NewUser.__dataclass_fields__, *_IMPORT_ONLY)
}
_PROFILE_TYPES: Mapping[str, TypeEngine[Any]] = {
    "user_id": Uuid(),
    **{name: Text() for name in ProfileRow._fields},
}


def _columns_of_arrays(types: Mapping[str, TypeEngine[Any]]) -> Mapping[str, ColumnElement[Any]]:
    """Return columns of a table made of one array parameter each, for any number of rows.

    The parameter of `email` is `imported_email`.
    """
    arrays = [bindparam(f"imported_{name}", type_=ARRAY(kind)) for name, kind in types.items()]
    columns = [column(name, kind) for name, kind in types.items()]
    rows = func.unnest(*arrays).table_valued(*columns).render_derived()
    return {name: rows.c[name] for name in types}


_imported = _columns_of_arrays(_IMPORTED_TYPES)
_add = (
    insert_or_ignore(users)
    .from_select(
        [*_imported],
        select(*[*_imported.values()][:-1], func.coalesce(_imported["created_at"], func.now())),
    )
    .on_conflict_do_nothing()
    .returning(users.c.id)
    .execution_options(summary="INSERT users")
)
_profiles = _columns_of_arrays(_PROFILE_TYPES)
_add_profiles = (
    insert(user_profiles)
    .from_select([*_profiles], select(*_profiles.values()))
    .execution_options(summary="INSERT user_profiles")
)
# The lock makes the transaction a write, so its commit waits for the standbys to confirm the
# users that it reports as existing.
_existing = (
    select(*(users.c[name] for name in ExistingUser._fields[:-1]), users.c.deleted_at.is_(None))
    .with_for_update(read=True, key_share=True)
    .execution_options(summary="SELECT users")
)
_by_request_ids = _existing.where(any_of(users.c.request_id, "request_ids"))
_by_ids = _existing.where(any_of(users.c.id, "ids"))
_ids, _is_live = select(users.c.id), users.c.deleted_at.is_(None)
# One arm for each index: PostgreSQL may use no index for several conditions in one arm.
_conflicting_ids = union(
    _ids.where(any_of(users.c.id, "ids")),
    _ids.where(users.c.email == any_(bindparam("emails", type_=ARRAY(Text))), _is_live),
    _ids.where(users.c.username == any_(bindparam("usernames", type_=ARRAY(Text))), _is_live),
).execution_options(summary="SELECT users")


class ImportRepository(Repository):
    """Adds users, and finds the users that conflict, over one connection."""

    async def add(self, imported_users: Sequence[ImportedUser]) -> Collection[ImportedUser]:
        """Add the users without a conflict, and return them.

        Conflicting users of other transactions are waited for.
        """
        first: dict[UUID, ImportedUser] = {}
        for imported in imported_users:
            first.setdefault(imported.user.id, imported)
        # Every import inserts in this order, so imports of the same users do not deadlock.
        ordered = sorted(first.values(), key=lambda imported: imported.user.email)
        arrays = {
            f"imported_{name}": [
                getattr(imported if name in _IMPORT_ONLY else imported.user, name)
                for imported in ordered
            ]
            for name in _IMPORTED_TYPES
        }
        added = await self._connection.execute(_add, arrays)
        return {first[user_id] for user_id in added.scalars()}

    async def add_profiles(self, imported_users: Collection[ImportedUser]) -> None:
        """Add the profiles of users that were added."""
        arrays: dict[str, list[Any]] = {
            f"imported_{name}": [getattr(imported.profile, name) for imported in imported_users]
            for name in ProfileRow._fields
        }
        arrays["imported_user_id"] = [imported.user.id for imported in imported_users]
        await self._connection.execute(_add_profiles, arrays)

    async def resolve_conflicts(
        self, imported_users: Sequence[ImportedUser]
    ) -> Mapping[ImportedUser, UUID | Failure]:
        """Return for each user that was not added the id of the same user, or a failure.

        Raise `TransactionConflict` if the user that was in the way is gone.
        """
        news = [imported.user for imported in imported_users]
        request_ids = {"request_ids": [new.request_id for new in news]}
        known = {it.request_id: it for it in await self._find(_by_request_ids, request_ids)}
        others = await self._find_conflicting([new for new in news if new.request_id not in known])
        taken = {value: it for it in others for value in _unique_values(it)}
        return {imported: _resolve_conflict(imported, known, taken) for imported in imported_users}

    async def _find_conflicting(self, new_users: Sequence[NewUser]) -> Sequence[ExistingUser]:
        """Return the users with the id, the address or the username of a new user."""
        if not new_users:
            return []
        values = {
            "ids": [new.id for new in new_users],
            "emails": [new.email for new in new_users],
            "usernames": [new.username for new in new_users if new.username is not None],
        }
        found = await self._connection.execute(_conflicting_ids, values)
        return await self._find(_by_ids, {"ids": [*found.scalars()]})

    async def _find(
        self, statement: Select[*tuple[Any, ...]], values: Mapping[str, object]
    ) -> Sequence[ExistingUser]:
        found = await self._connection.execute(statement, values)
        return [ExistingUser._make(row) for row in found]


def _unique_values(user: ExistingUser) -> Iterable[tuple[str, Any]]:
    """Yield the columns and values that no other user can have."""
    yield "id", user.id
    if user.is_live:
        yield "email", user.email
        yield "username", user.username


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
