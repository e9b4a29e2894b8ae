"""Scans of users along an index: what a page and a count are read from."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, literal, true, tuple_

from tamatar_auth.storage.repositories import KeysetCursor
from tamatar_auth.storage.repositories.user_filters import (
    ColumnRange,
    Deleted,
    UserFilter,
    column_ranges,
    deletion_conditions,
    flag_conditions,
)
from tamatar_auth.storage.tables import users

_FLAGS = {
    "created_at": ("email_verified", "is_active"),
    "updated_at": ("is_active", "email_verified"),
    "email": ("email_verified", "is_active"),
    "username": (),
}
"""The flags that go before a column in its index of live users."""

_ONLY_WITH_FLAGS = "updated_at"
"""The column that has no index of live users without flags."""


class IndexPartition(NamedTuple):
    """A part of the users that is contiguous in the index of a column."""

    is_deleted: bool
    flags: tuple[bool, ...] = ()
    """The values of the flags that go before the column in the index."""


def index_partitions(matching: UserFilter, column: str) -> Sequence[IndexPartition]:
    """Return the partitions that hold all users of a filter. No deleted user is active."""
    found: list[IndexPartition] = []
    if matching.deleted is not Deleted.ONLY:
        found += [
            IndexPartition(is_deleted=False, flags=flags)
            for flags in _flag_values(matching, column)
        ]
    if matching.deleted is not Deleted.EXCLUDE and matching.is_active is not True:
        found += [IndexPartition(is_deleted=True)]
    return found


def _flag_values(matching: UserFilter, column: str) -> Sequence[tuple[bool, ...]]:
    wanted = [getattr(matching, flag) for flag in _FLAGS[column]]
    if wanted == [None, None] and column != _ONLY_WITH_FLAGS:
        return [()]
    values = ((False, True) if value is None else (value,) for value in wanted)
    return [*itertools.product(*values)]


@dataclass(frozen=True, slots=True)
class IndexScan:
    """A scan of a partition along the index of a column, in the range that a filter has for it.

    Flags are a part of the keys and of their bounds. As separate conditions they could be
    checked row by row along another index, far from the first match.
    """

    matching: UserFilter
    column: str
    partition: IndexPartition

    @property
    def keys(self) -> Sequence[ColumnElement[Any]]:
        """The keys of the index, in its order. The id decides between equals."""
        return (*self.leading_keys, users.c.id)

    @property
    def leading_keys(self) -> Sequence[ColumnElement[Any]]:
        """The keys without the id, which indexes that are unique need not have."""
        flags = _FLAGS[self.column] if self.partition.flags else ()
        return [users.c[name] for name in (*flags, self.column)]

    @property
    def row_condition(self) -> ColumnElement[bool] | None:
        """The conditions that the index does not bound, or None if it bounds all of them."""
        flags = () if self.partition.flags else flag_conditions(self.matching)
        others = [it for name, it in column_ranges(self.matching).items() if name != self.column]
        found = (*flags, *(column_range.condition() for column_range in others))
        return and_(true(), *found).is_(True) if found else None

    def bounds(
        self, after: KeysetCursor | None = None, *, descending: bool = False
    ) -> Sequence[ColumnElement[bool]]:
        """Return the conditions for the rows of the scan that come after a cursor.

        There is one bound for each end: with two, a scan could begin at the wider one.
        """
        part = Deleted.ONLY if self.partition.is_deleted else Deleted.EXCLUDE
        above, below = self._ends()
        if after is not None:
            place = _row(self.keys, (*self.partition.flags, *after))
            if descending:
                below = [tuple_(*self.keys) < place]
            else:
                above = [tuple_(*self.keys) > place]
        return [*deletion_conditions(part), *above, *below]

    def _ends(self) -> tuple[list[ColumnElement[bool]], list[ColumnElement[bool]]]:
        flags, keys = self.partition.flags, self.keys
        everything = ColumnRange(self.column, None, None)
        column_range = column_ranges(self.matching).get(self.column, everything)
        low = (*flags, *(() if column_range.low is None else (column_range.low,)))
        high = (*flags, *(() if column_range.high is None else (column_range.high,)))
        above = [_columns(keys, low) >= _row(keys, low)] if low else []
        below = [_columns(keys, high) <= _row(keys, high)] if high else []
        if column_range.high is not None:
            below = [_columns(keys, high) < _row(keys, high)]
        return above, below


def _columns(keys: Sequence[ColumnElement[Any]], values: Sequence[object]) -> ColumnElement[Any]:
    return tuple_(*keys[: len(values)])


def _row(keys: Sequence[ColumnElement[Any]], values: Sequence[object]) -> ColumnElement[Any]:
    return tuple_(*(literal(it, key.type) for it, key in zip(values, keys, strict=False)))
