"""Filters and orders of users, the same for rows, counts and aggregates."""

import enum
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeAlias

from sqlalchemy import ColumnElement, and_
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from tamatar_auth.storage.tables import users

Columns: TypeAlias = ReadOnlyColumnCollection[str, Any]
"""The columns of users, or of rows that were read from users."""

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

    name: str
    low: datetime | str | None
    high: datetime | str | None

    def condition(self, columns: Columns = users.c) -> ColumnElement[bool]:
        """Return the condition for rows in the range."""
        column = columns[self.name]
        above = () if self.low is None else (column >= self.low,)
        below = () if self.high is None else (column < self.high,)
        return and_(*above, *below)


def matches_any(matching: UserFilter) -> bool:
    """Return whether any user can match. No deleted user is active."""
    return not (matching.deleted is Deleted.ONLY and matching.is_active)


def flags(matching: UserFilter) -> Mapping[str, bool]:
    """Return the flags of a filter, by column name."""
    found = {"email_verified": matching.email_verified, "is_active": matching.is_active}
    return {name: wanted for name, wanted in found.items() if wanted is not None}


def flag_conditions(
    matching: UserFilter, columns: Columns = users.c
) -> Sequence[ColumnElement[bool]]:
    """Return the conditions on verified addresses and active users."""
    return [columns[name].is_(wanted) for name, wanted in flags(matching).items()]


def column_ranges(matching: UserFilter) -> Mapping[str, ColumnRange]:
    """Return the ranges of indexed columns, by column name."""
    found = {}
    # Not LIKE: a prepared statement has one plan for all patterns, which uses no index.
    for name, prefix in (("email", matching.email_prefix), ("username", matching.username_prefix)):
        if prefix is not None:
            found[name] = ColumnRange(name, prefix, after_prefix(prefix))
    if matching.created_from is not None or matching.created_before is not None:
        found["created_at"] = ColumnRange(
            "created_at", matching.created_from, matching.created_before
        )
    return found


def deletion_conditions(deleted: Deleted) -> Sequence[ColumnElement[bool]]:
    """Return the condition that excludes deleted users, or excludes all others."""
    if deleted is Deleted.INCLUDE:
        return ()
    is_live = users.c.deleted_at.is_(None)
    return (is_live if deleted is Deleted.EXCLUDE else ~is_live,)


def deletion_parts(deleted: Deleted) -> Sequence[Deleted]:
    """Return the filters of deletion that match the same users, each of which has its indexes."""
    return [Deleted.EXCLUDE, Deleted.ONLY] if deleted is Deleted.INCLUDE else [deleted]


def after_prefix(prefix: str) -> str | None:
    """Return the smallest text above all texts with a prefix, or None if there is none.

    The order is that of code points, which is the order of UTF-8 bytes.
    """
    stem = prefix.rstrip(chr(sys.maxunicode))
    if not stem:
        return None
    above = ord(stem[-1]) + 1
    return stem[:-1] + chr(_AFTER_SURROGATES if above == _SURROGATES else above)
