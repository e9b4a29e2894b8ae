"""Lists, counts and figures of the users that a filter describes."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import CursorResult, Select, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from tamatar_auth.storage.repositories.keyset import KeysetCursor
from tamatar_auth.storage.repositories.user_filters import (
    UserFilter,
    UserOrder,
    conditions,
    index_partitions,
)
from tamatar_auth.storage.repositories.user_pages import UserPageQuery
from tamatar_auth.storage.repositories.users import USER_COLUMNS, UserRow
from tamatar_auth.storage.tables import users


class UserStats(NamedTuple):
    """The number of users, and when the first and the last were created."""

    total: int
    first_created_at: datetime | None
    last_created_at: datetime | None


class UserListRepository:
    """Lists and counts users over one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def page(
        self,
        matching: UserFilter,
        order: UserOrder,
        *,
        size: int,
        after: KeysetCursor | None = None,
    ) -> Sequence[UserRow]:
        """Return up to `size` users that come after a cursor."""
        if not index_partitions(matching):
            return []
        page = UserPageQuery(USER_COLUMNS, matching, order, size, after)
        is_narrow = await self._any_range_is_narrow(page.width_probes())
        found = await self._execute(page.sort_matches() if is_narrow else page.scan_index())
        return [UserRow._make(row) for row in found]

    async def count(self, matching: UserFilter) -> int:
        """Count the users that the filter describes."""
        counted = select(func.count()).select_from(users).where(*conditions(matching))
        return int((await self._execute(counted)).scalar_one())

    async def stats(self, matching: UserFilter) -> UserStats:
        """Count the users that the filter describes; return the first and last creation too."""
        created = users.c.created_at
        figures = select(func.count(), func.min(created), func.max(created))
        found = await self._execute(figures.where(*conditions(matching)))
        return UserStats._make(found.one())

    async def _any_range_is_narrow(self, width_probes: Sequence[Select[Any]]) -> bool:
        for probe in width_probes:
            if (await self._execute(probe)).first() is None:
                return True
        return False

    async def _execute(self, statement: Select[*tuple[Any, ...]]) -> CursorResult[*tuple[Any, ...]]:
        named = statement.execution_options(summary="SELECT users")
        return await self._connection.execute(named)
