"""Statements for a page of users, which touch a bounded number of rows.

A page is read along an index in the page's order, or sorted from a few rows that another index
finds. This module decides which, not the planner. The plan of a prepared statement ignores its
values, and the number of rows depends on them. Nor does the planner know correlations: for
example, all unverified users may be new.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    false,
    func,
    literal,
    or_,
    select,
    true,
    union_all,
)

from tamatar_auth.storage.repositories import (
    KeysetCursor,
    after_condition,
    limit_literal,
    scan_limit,
)
from tamatar_auth.storage.repositories.user_filters import (
    ColumnRange,
    Deleted,
    UserFilter,
    UserOrder,
    column_ranges,
    deletion_conditions,
    flag_conditions,
)
from tamatar_auth.storage.repositories.user_index_scans import (
    IndexPartition,
    IndexScan,
    index_partitions,
)
from tamatar_auth.storage.repositories.users import USER_COLUMNS, UserRow
from tamatar_auth.storage.tables import users

MAX_SORTED_ROWS = 5000
"""The most rows that are sorted for a page."""

MAX_SCANNED_ROWS = 10_000
"""The most rows of an index that are checked for a page; the next page continues there.

With a million users, a range that is too wide to be sorted fills a page of 50 within these rows.
"""


class UserPage(NamedTuple):
    """Users in order."""

    rows: Sequence[UserRow]
    resume_after: KeysetCursor | None = None
    """Where the next page continues if the page ended early, after `MAX_SCANNED_ROWS`."""


@dataclass(frozen=True, slots=True)
class UserPageQuery:
    """Up to `size` users that a filter describes, in an order, after a cursor."""

    matching: UserFilter
    order: UserOrder
    size: int
    after: KeysetCursor | None = None

    @property
    def partitions(self) -> Sequence[IndexPartition]:
        """The partitions of the order's index."""
        return index_partitions(self.matching, self.order.column)

    @property
    def other_ranges(self) -> Sequence[ColumnRange]:
        """The ranges of other columns than the order's column."""
        found = column_ranges(self.matching)
        return [column_range for name, column_range in found.items() if name != self.order.column]

    def probe_width(self, column_range: ColumnRange) -> Select[Any]:
        """Build the statement that returns a row if a range is too wide to be sorted."""
        column = users.c[column_range.name]
        parts = [
            select(literal(1).label("one"))
            .where(column_range.condition(), *deletion_conditions(deleted))
            .order_by(column)  # so that only its index is read
            .limit(scan_limit(MAX_SORTED_ROWS + 1))
            .subquery()
            for deleted in self._deletion_parts
        ]
        found = union_all(*(select(part.c.one) for part in parts)).subquery("found")
        return select(found.c.one).offset(limit_literal(MAX_SORTED_ROWS)).limit(limit_literal(1))

    def sort_range(self, column_range: ColumnRange) -> Select[Any]:
        """Build the statement that sorts the matches among the rows of a narrow range."""
        in_range = union_all(
            *(
                select(*USER_COLUMNS).where(column_range.condition(), *deletion_conditions(deleted))
                for deleted in self._deletion_parts
            )
        )
        # Materialized: with the other conditions, the planner could scan another index.
        found = in_range.cte("found").prefix_with("MATERIALIZED")
        others = [it for it in column_ranges(self.matching).values() if it != column_range]
        page = self._sorted(found).where(
            *flag_conditions(self.matching, found.c), *(it.condition(found.c) for it in others)
        )
        if self.after is None:
            return page
        key, descending = found.c[self.order.column], self.order.descending
        return page.where(after_condition(key, found.c.id, self.after, descending=descending))

    def scan_index(self) -> Select[Any]:
        """Build the statement that reads a page of each partition, and merges them.

        Its rows have two more columns, for `cut`: whether the row matches, and whether it is the
        last that was checked.
        """
        pages = [self._scan_partition(partition).subquery() for partition in self.partitions]
        return self._sorted(union_all(*(page.select() for page in pages)).subquery("found"))

    def cut(self, found: Iterable[Row[Any]]) -> UserPage:
        """Return the page of the rows of `scan_index`, up to the first that was the last checked.

        Users of other partitions that come after it may be incomplete.
        """
        rows: list[UserRow] = []
        for *columns, matches, is_last in map(tuple, found):
            row = UserRow._make(columns)
            if matches:
                rows.append(row)
            if is_last and len(rows) < self.size:
                return UserPage(rows, KeysetCursor(getattr(row, self.order.column), row.id))
        return UserPage(rows)

    def _scan_partition(self, partition: IndexPartition) -> Select[Any]:
        scan = IndexScan(self.matching, self.order.column, partition)
        bounds = scan.bounds(self.after, descending=self.order.descending)
        order = self._directions(scan.keys)
        if scan.row_condition is None:
            columns = (*USER_COLUMNS, true().label("matches"), false().label("is_last"))
            page = select(*columns).where(*bounds).order_by(*order)
            return page.limit(limit_literal(self.size))
        number = func.row_number().over(order_by=order).label("number")
        share = MAX_SCANNED_ROWS // len(self.partitions)
        # The condition is a column here, so that the planner uses the index of the order.
        checked = select(*USER_COLUMNS, scan.row_condition.label("matches"), number)
        rows = checked.where(*bounds).order_by(*order).limit(scan_limit(share)).subquery("checked")
        is_last = (rows.c.number == limit_literal(share)).label("is_last")
        found = select(*(rows.c[name] for name in UserRow._fields), rows.c.matches, is_last)
        keys = [rows.c[str(key.key)] for key in scan.keys]
        page = found.where(or_(rows.c.matches, is_last)).order_by(*self._directions(keys))
        return page.limit(limit_literal(self.size))

    @property
    def _deletion_parts(self) -> Sequence[Deleted]:
        deleted = dict.fromkeys(partition.is_deleted for partition in self.partitions)
        return [Deleted.ONLY if is_deleted else Deleted.EXCLUDE for is_deleted in deleted]

    def _sorted(self, found: Any) -> Select[Any]:
        keys = (found.c[self.order.column], found.c.id)
        return select(*found.c).order_by(*self._directions(keys)).limit(limit_literal(self.size))

    def _directions(self, keys: Sequence[ColumnElement[Any]]) -> Sequence[ColumnElement[Any]]:
        return [key.desc() for key in keys] if self.order.descending else keys
