"""Exported users: all columns, the profile and the password's hash."""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import select

from tamatar_auth.storage.repositories import Repository, limit_literal
from tamatar_auth.storage.repositories.profiles import PROFILE_COLUMNS, ProfileRow
from tamatar_auth.storage.repositories.users import UserRow
from tamatar_auth.storage.tables import user_profiles, users


class ExportedUser(NamedTuple):
    """A user with its profile and its hash."""

    user: UserRow
    profile: ProfileRow
    password_hash: str | None

    def __repr__(self) -> str:
        return f"ExportedUser({self.user.id})"


class ExportRepository(Repository):
    """Reads users in the order of their ids, over one connection."""

    async def page(self, after: UUID | None, *, size: int) -> Sequence[ExportedUser]:
        """Return up to `size` live users whose ids come after `after`."""
        chosen = select(users).where(users.c.deleted_at.is_(None)).order_by(users.c.id)
        if after is not None:
            chosen = chosen.where(users.c.id > after)
        # A subquery, so that PostgreSQL joins no more than a page.
        page = chosen.limit(limit_literal(size)).subquery()
        statement = (
            select(*page.c[UserRow._fields], *PROFILE_COLUMNS, page.c.password_hash)
            .outerjoin(user_profiles, user_profiles.c.user_id == page.c.id)
            .order_by(page.c.id)
            .execution_options(summary="SELECT users user_profiles")
        )
        found = await self._connection.execute(statement)
        width = len(UserRow._fields)
        return [
            ExportedUser(UserRow._make(row[:width]), ProfileRow._make(row[width:-1]), row[-1])
            for row in found
        ]
