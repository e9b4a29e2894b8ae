"""Lists, counts and figures of the users that a filter describes.

The cost of a call does not grow with the number of users: each statement touches a bounded
number of rows, whatever the filter.
"""

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import CursorResult, Executable

from tamatar_auth.storage.repositories import KeysetCursor, Repository
from tamatar_auth.storage.repositories.user_counts import RowEstimate, UserCount, count_queries
from tamatar_auth.storage.repositories.user_filters import (
    ColumnRange,
    UserFilter,
    UserOrder,
    matches_any,
)
from tamatar_auth.storage.repositories.user_pages import UserPage, UserPageQuery
from tamatar_auth.storage.repositories.users import UserRow

MAX_PAGES_OF_EXTREME = 2
"""Pages that are read in search of the first or the last user of a filter."""


class UserStats(NamedTuple):
    """The number of users, and when the first and the last were created."""

    total: UserCount
    first_created_at: datetime | None
    last_created_at: datetime | None


class UserListRepository(Repository):
    """Lists and counts users over one connection."""

    async def page(
        self,
        matching: UserFilter,
        order: UserOrder,
        *,
        size: int,
        after: KeysetCursor | None = None,
    ) -> UserPage:
        """Return up to `size` users that come after a cursor."""
        query = UserPageQuery(matching, order, size, after)
        if not matches_any(matching):
            return UserPage([])
        narrow = await self._find_narrow_range(query)
        if narrow is None:
            return query.cut(await self._execute(query.scan_index()))
        found = await self._execute(query.sort_range(narrow))
        return UserPage([UserRow._make(row) for row in found])

    async def count(self, matching: UserFilter) -> UserCount:
        """Count the users of a filter, or estimate their number beyond the bounds of a count."""
        if not matches_any(matching):
            return UserCount(0)
        at_least = 0
        for query in count_queries(matching):
            read, matches = (await self._execute(query.statement())).one()
            if read <= query.limit:
                return UserCount(matches)
            at_least = max(at_least, matches)
        plan = (await self._execute(RowEstimate(matching))).scalar_one()
        return UserCount(max(at_least, RowEstimate.read(plan)), is_estimate=True)

    async def stats(self, matching: UserFilter) -> UserStats:
        """Count the users of a filter; return the first and the last creation too, if found."""
        total = await self.count(matching)
        first = await self._find_extreme(matching, UserOrder("created_at"))
        last = await self._find_extreme(matching, UserOrder("created_at", descending=True))
        return UserStats(total, first, last)

    async def _find_extreme(self, matching: UserFilter, order: UserOrder) -> datetime | None:
        after = None
        for _ in range(MAX_PAGES_OF_EXTREME):
            page = await self.page(matching, order, size=1, after=after)
            if page.rows:
                return page.rows[0].created_at
            if page.resume_after is None:
                return None
            after = page.resume_after
        return None

    async def _find_narrow_range(self, query: UserPageQuery) -> ColumnRange | None:
        for column_range in query.other_ranges:
            if (await self._execute(query.probe_width(column_range))).first() is None:
                return column_range
        return None

    async def _execute(self, statement: Executable) -> CursorResult[*tuple[Any, ...]]:
        options = {"summary": "SELECT users"}
        return await self._connection.execute(statement, execution_options=options)
