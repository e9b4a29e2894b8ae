"""Statements that count the users of a filter: exactly up to a bound, and by estimate beyond it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import (
    ClauseElement,
    ColumnElement,
    Executable,
    Select,
    func,
    literal,
    select,
    true,
    union_all,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from tamatar_auth.storage.repositories import scan_limit
from tamatar_auth.storage.repositories.user_filters import (
    UserFilter,
    column_ranges,
    deletion_conditions,
    flags,
)
from tamatar_auth.storage.repositories.user_index_scans import IndexScan, index_partitions
from tamatar_auth.storage.tables import users

MAX_COUNTED_ENTRIES = 100_000
"""The most entries of an index that are counted."""

MAX_COUNTED_ROWS = 10_000
"""The most rows of the table that are checked for a count, where an index does not suffice."""


class UserCount(NamedTuple):
    """The number of users of a filter."""

    number: int
    is_estimate: bool = False


@dataclass(frozen=True, slots=True)
class UserCountQuery:
    """The count of the users of a filter along the index of a column, up to a limit."""

    matching: UserFilter
    column: str

    @property
    def limit(self) -> int:
        """The most users that are read."""
        is_indexed = all(scan.row_condition is None for scan in self._scans)
        return MAX_COUNTED_ENTRIES if is_indexed else MAX_COUNTED_ROWS

    def statement(self) -> Select[int, int]:
        """Build the statement that returns how many users were read, and how many match.

        If it read more than the limit, users may match that it did not read.
        """
        one_more = scan_limit(self.limit + 1)
        parts = [
            select((true() if scan.row_condition is None else scan.row_condition).label("matches"))
            .where(*scan.bounds())
            .order_by(*scan.leading_keys)  # so that only this index is read
            .limit(one_more)
            .subquery()
            for scan in self._scans
        ]
        read = union_all(*(select(part.c.matches) for part in parts)).limit(one_more).subquery()
        return select(func.count(), func.count().filter(read.c.matches)).select_from(read)

    @property
    def _scans(self) -> Sequence[IndexScan]:
        partitions = index_partitions(self.matching, self.column)
        return [IndexScan(self.matching, self.column, partition) for partition in partitions]


def count_queries(matching: UserFilter) -> Sequence[UserCountQuery]:
    """Return a query for each range of a filter: one whose range is small counts exactly."""
    return [
        UserCountQuery(matching, column) for column in column_ranges(matching) or ["created_at"]
    ]


class RowEstimate(Executable, ClauseElement):
    """The plan of a filter as JSON. PostgreSQL estimates its rows from the statistics of users."""

    inherit_cache = False

    def __init__(self, matching: UserFilter) -> None:
        self.query = select(literal(1)).select_from(users).where(*_conditions(matching))

    @staticmethod
    def read(plan: Any) -> int:
        """Return the estimate of a plan."""
        return int(plan[0]["Plan"]["Plan Rows"])


def _conditions(matching: UserFilter) -> Sequence[ColumnElement[bool]]:
    """Return all conditions of a filter. Extended statistics know no `IS false`, so flags are =."""
    return [
        *deletion_conditions(matching.deleted),
        *(users.c[name] == value for name, value in flags(matching).items()),
        *(column_range.condition() for column_range in column_ranges(matching).values()),
    ]


@compiles(RowEstimate)
def _compile(element: RowEstimate, compiler: SQLCompiler, **options: Any) -> str:
    return "EXPLAIN (FORMAT JSON) " + compiler.process(element.query, **options)
