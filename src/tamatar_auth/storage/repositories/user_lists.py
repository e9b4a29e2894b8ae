"""Lists, counts and figures of the users that a filter describes.

The cost of a page does not grow with the number of users. A page is read along an index in the
page's order, or sorted from a few rows that another index finds. This module decides which, not
the planner. The plan of a prepared statement ignores its values, and the number of rows depends
on them. Nor does the planner know correlations: for example, all unverified users may be new.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, CursorResult, Select, func, literal, select, tuple_, union_all

from tamatar_auth.storage.repositories import (
    KeysetCursor,
    Repository,
    after_condition,
    limit_literal,
)
from tamatar_auth.storage.repositories.user_filters import (
    ColumnRange,
    Deleted,
    IndexPartition,
    UserFilter,
    UserOrder,
    column_ranges,
    conditions,
    deletion_conditions,
    flag_conditions,
    index_partitions,
)
from tamatar_auth.storage.repositories.users import USER_COLUMNS, UserRow
from tamatar_auth.storage.tables import users

MAX_SORTED_ROWS = 5000
"""The most rows that are sorted for a page.

A wider range holds at least one of 200 users among a million. So a scan in the page's order
finds 50 users within about 10,000 rows.
"""


class UserStats(NamedTuple):
    """The number of users, and when the first and the last were created."""

    total: int
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
    ) -> Sequence[UserRow]:
        """Return up to `size` users that come after a cursor."""
        if not index_partitions(matching):
            return []
        page = UserPageQuery(matching, order, size, after)
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


@dataclass(frozen=True, slots=True)
class UserPageQuery:
    """Up to `size` users that a filter describes, in an order, after a cursor."""

    matching: UserFilter
    order: UserOrder
    size: int
    after: KeysetCursor | None

    def width_probes(self) -> Sequence[Select[Any]]:
        """Build a statement for each range of other columns: a row means a wide range."""
        return [
            select(literal(1))
            .where(column_range.condition)
            .order_by(column_range.column)  # so that only its index is read
            .offset(limit_literal(MAX_SORTED_ROWS))
            .limit(limit_literal(1))
            for column_range in self._other_ranges
        ]

    def sort_matches(self) -> Select[Any]:
        """Build the statement that sorts the rows of a narrow range."""
        # Materialized, because the planner could scan in the page's order otherwise.
        matches = select(*USER_COLUMNS).where(*conditions(self.matching)).cte("found")
        found = matches.prefix_with("MATERIALIZED")
        page = self._sorted(found)
        if self.after is None:
            return page
        key, descending = found.c[self.order.column], self.order.descending
        return page.where(after_condition(key, found.c.id, self.after, descending=descending))

    def scan_index(self) -> Select[Any]:
        """Build the statement that reads a page of each partition, and merges them."""
        partition_pages = [
            self._partition_page(partition) for partition in index_partitions(self.matching)
        ]
        if len(partition_pages) == 1:
            return partition_pages[0]
        found = union_all(
            *(partition_page.subquery().select() for partition_page in partition_pages)
        )
        return self._sorted(found.subquery("found"))

    def _partition_page(self, partition: IndexPartition) -> Select[Any]:
        """Build the statement for a page of a partition, along the index of the order.

        Flags are a part of the order and of its bounds. As separate conditions they could be
        checked row by row along another index, far from the first match.
        """
        c, flags = users.c, partition.flags or ()
        leading = (c.email_verified, c.is_active)[: len(flags)]
        keys = (*leading, c[self.order.column], c.id)
        return (
            select(*USER_COLUMNS)
            .where(
                *deletion_conditions(Deleted.ONLY if partition.deleted else Deleted.EXCLUDE),
                *self._bounds(keys, flags),
                *(() if flags else flag_conditions(self.matching)),
                # As IS TRUE, so that no index of another order is used.
                *(column_range.condition.is_(True) for column_range in self._other_ranges),
            )
            .order_by(*self._directions((*self._leading_null(partition), *keys)))
            .limit(limit_literal(self.size))
        )

    def _leading_null(self, partition: IndexPartition) -> Sequence[ColumnElement[Any]]:
        """Return a column that is NULL in all rows: it keeps the planner off idx_user_created.

        With that index, users created at the same moment, as by an import, would all be sorted
        by id.
        """
        plain = not partition.deleted and partition.flags is None
        return (users.c.deleted_at,) if plain and self.order.column != "email" else ()

    def _bounds(
        self, keys: Sequence[ColumnElement[Any]], flags: Sequence[bool]
    ) -> Sequence[ColumnElement[bool]]:
        """Return one bound for each end: with two, a scan could begin at the wider one."""
        column_range = column_ranges(self.matching).get(
            self.order.column, ColumnRange(keys[-2], None, None)
        )
        low = (*flags, *(() if column_range.low is None else (column_range.low,)))
        high = (*flags, *(() if column_range.high is None else (column_range.high,)))
        above = [_columns(keys, low) >= _row(keys, low)] if low else []
        below = [_columns(keys, high) <= _row(keys, high)] if high else []
        if column_range.high is not None:
            below = [_columns(keys, high) < _row(keys, high)]
        if self.after is None:
            return above + below
        place = (*flags, *self.after)
        if self.order.descending:
            return [*above, _columns(keys, place) < _row(keys, place)]
        return [_columns(keys, place) > _row(keys, place), *below]

    @property
    def _other_ranges(self) -> Sequence[ColumnRange]:
        """The ranges of other columns than the order's column."""
        found = column_ranges(self.matching)
        return [column_range for name, column_range in found.items() if name != self.order.column]

    def _sorted(self, found: Any) -> Select[Any]:
        keys = (found.c[self.order.column], found.c.id)
        return select(*found.c).order_by(*self._directions(keys)).limit(limit_literal(self.size))

    def _directions(self, keys: Sequence[ColumnElement[Any]]) -> Sequence[ColumnElement[Any]]:
        return [key.desc() for key in keys] if self.order.descending else keys


def _columns(keys: Sequence[ColumnElement[Any]], values: Sequence[object]) -> ColumnElement[Any]:
    return tuple_(*keys[: len(values)])


def _row(keys: Sequence[ColumnElement[Any]], values: Sequence[object]) -> ColumnElement[Any]:
    return tuple_(*(literal(it, key.type) for it, key in zip(values, keys, strict=False)))
