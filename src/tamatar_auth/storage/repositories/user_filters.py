"""Filters and orders of users, the same for rows, counts and aggregates."""

import enum
import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple

from sqlalchemy import ColumnElement, and_

from tamatar_auth.storage.tables import users

_SURROGATES, _AFTER_SURROGATES = 0xD800, 0xE000
"""The first code point that no text has, and the first after those."""


class Deleted(enum.Enum):
    """Whether a filter matches deleted users."""

    EXCLUDE = "exclude"
    INCLUDE = "include"
    ONLY = "only"


@dataclass(frozen=True, slots=True, kw_only=True)
class UserFilter:
    """Conditions on users; None matches every user."""

    email_prefix: str | None = None
    username_prefix: str | None = None
    email_verified: bool | None = None
    is_active: bool | None = None
    created_from: datetime | None = None
    created_before: datetime | None = None
    deleted: Deleted = Deleted.EXCLUDE


class UserOrder(NamedTuple):
    """The order of a page; the id decides between equals."""

    column: Literal["created_at", "updated_at", "email"] = "created_at"
    descending: bool = False


class ColumnRange(NamedTuple):
    """A range of an indexed column: `low` is in it, `high` is not."""

    column: ColumnElement[Any]
    low: datetime | str | None
    high: datetime | str | None

    @property
    def condition(self) -> ColumnElement[bool]:
        """The condition for rows in the range."""
        above = () if self.low is None else (self.column >= self.low,)
        below = () if self.high is None else (self.column < self.high,)
        return and_(*above, *below)


class IndexPartition(NamedTuple):
    """A part of the users that is contiguous in an index for lists, in each order."""

    deleted: bool
    flags: tuple[bool, bool] | None = None
    """Whether the address is verified and the user is active; None for any of both."""


def index_partitions(matching: UserFilter) -> Sequence[IndexPartition]:
    """Return the partitions that hold all users of a filter. No deleted user is active."""
    verified, active = matching.email_verified, matching.is_active
    found: list[IndexPartition] = []
    if matching.deleted is not Deleted.ONLY:
        found += [IndexPartition(deleted=False, flags=flags) for flags in _flags(verified, active)]
    if matching.deleted is not Deleted.EXCLUDE and active is not True:
        found += [IndexPartition(deleted=True)]
    return found


def _flags(*wanted: bool | None) -> Sequence[tuple[bool, bool] | None]:
    if wanted == (None, None):
        return [None]
    verified, active = ((False, True) if it is None else (it,) for it in wanted)
    return [*itertools.product(verified, active)]


def conditions(matching: UserFilter) -> Sequence[ColumnElement[bool]]:
    """Return all conditions of a filter."""
    ranges = [column_range.condition for column_range in column_ranges(matching).values()]
    return [*deletion_conditions(matching.deleted), *flag_conditions(matching), *ranges]


def flag_conditions(matching: UserFilter) -> Sequence[ColumnElement[bool]]:
    """Return the conditions on verified addresses and active users."""
    flags = (
        (users.c.email_verified, matching.email_verified),
        (users.c.is_active, matching.is_active),
    )
    return [column.is_(wanted) for column, wanted in flags if wanted is not None]


def column_ranges(matching: UserFilter) -> Mapping[str, ColumnRange]:
    """Return the ranges of indexed columns, by column name."""
    found = {}
    # Not LIKE: a prepared statement has one plan for all patterns, which uses no index.
    for name, prefix in (("email", matching.email_prefix), ("username", matching.username_prefix)):
        if prefix is not None:
            found[name] = ColumnRange(users.c[name], prefix, after_prefix(prefix))
    if matching.created_from is not None or matching.created_before is not None:
        found["created_at"] = ColumnRange(
            users.c.created_at, matching.created_from, matching.created_before
        )
    return found


def deletion_conditions(deleted: Deleted) -> Sequence[ColumnElement[bool]]:
    """Return the condition that excludes deleted users, or excludes all others."""
    if deleted is Deleted.INCLUDE:
        return ()
    is_live = users.c.deleted_at.is_(None)
    return (is_live if deleted is Deleted.EXCLUDE else ~is_live,)


def after_prefix(prefix: str) -> str | None:
    """Return the smallest text above all texts with a prefix, or None if there is none.

    The order is that of code points, which is the order of UTF-8 bytes.
    """
    stem = prefix.rstrip(chr(sys.maxunicode))
    if not stem:
        return None
    above = ord(stem[-1]) + 1
    return stem[:-1] + chr(_AFTER_SURROGATES if above == _SURROGATES else above)
