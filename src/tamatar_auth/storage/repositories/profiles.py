"""Profiles: one row for each user, created and removed with it."""

from collections.abc import Mapping
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import bindparam, insert, select, update

from tamatar_auth.errors.users import UserNotFound
from tamatar_auth.storage.repositories import Repository
from tamatar_auth.storage.tables import user_profiles


class ProfileRow(NamedTuple):
    """The columns of a profile that callers may see."""

    display_name: str | None = None
    bio: str | None = None
    locale: str | None = None
    time_zone: str | None = None


PROFILE_COLUMNS = tuple(user_profiles.c[name] for name in ProfileRow._fields)

_of_user = user_profiles.c.user_id == bindparam("owner_id")
_insert = (
    insert(user_profiles)
    .returning(*PROFILE_COLUMNS)
    .execution_options(summary="INSERT user_profiles")
)
_select = select(*PROFILE_COLUMNS).where(_of_user).execution_options(summary="SELECT user_profiles")
_update = (
    update(user_profiles)
    .where(_of_user)
    .returning(*PROFILE_COLUMNS)
    .execution_options(summary="UPDATE user_profiles")
)


class ProfileRepository(Repository):
    """Finds and changes profiles over one connection."""

    async def add(self, user_id: UUID, profile: ProfileRow) -> ProfileRow:
        """Add the profile of a user. A constraint raises `UserNotFound`."""
        values = {"user_id": user_id, **profile._asdict()}
        return ProfileRow._make((await self._connection.execute(_insert, values)).one())

    async def get(self, user_id: UUID) -> ProfileRow:
        """Return the profile of a user, or raise `UserNotFound`."""
        return ProfileRow._make(await self._one(_select, {"owner_id": user_id}, UserNotFound))

    async def update(self, user_id: UUID, changes: Mapping[str, str | None]) -> ProfileRow:
        """Change columns of a profile, or raise `UserNotFound`."""
        values = {"owner_id": user_id, **changes}
        return ProfileRow._make(await self._one(_update, values, UserNotFound))
