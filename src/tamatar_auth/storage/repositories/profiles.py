"""Profiles: a row for each user, created and removed with it."""

from collections.abc import Mapping
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from tamatar_auth.errors.users import UserNotFound
from tamatar_auth.storage.tables import user_profiles


class ProfileRow(NamedTuple):
    """What a user says of itself."""

    display_name: str | None = None
    bio: str | None = None
    locale: str | None = None
    time_zone: str | None = None


PROFILE_COLUMNS = tuple(user_profiles.c[name] for name in ProfileRow._fields)


class ProfileRepository:
    """Finds and changes profiles over one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, user_id: UUID, profile: ProfileRow) -> ProfileRow:
        """Add the profile of a user. The database answers `UserNotFound`."""
        added = await self._connection.execute(
            insert(user_profiles)
            .values(user_id=user_id, **profile._asdict())
            .returning(*PROFILE_COLUMNS)
        )
        return ProfileRow._make(added.one())

    async def get(self, user_id: UUID) -> ProfileRow:
        """Return the profile of a user, or raise `UserNotFound`."""
        found = await self._connection.execute(
            select(*PROFILE_COLUMNS).where(user_profiles.c.user_id == user_id)
        )
        row = found.one_or_none()
        if row is None:
            raise UserNotFound
        return ProfileRow._make(row)

    async def update(self, user_id: UUID, changes: Mapping[str, str | None]) -> ProfileRow:
        """Change columns of a profile, or raise `UserNotFound`."""
        changed = await self._connection.execute(
            update(user_profiles)
            .where(user_profiles.c.user_id == user_id)
            .values(changes)
            .returning(*PROFILE_COLUMNS)
        )
        row = changed.one_or_none()
        if row is None:
            raise UserNotFound
        return ProfileRow._make(row)
