"""Keyset pages: where one ends and the next begins."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ARRAY, ColumnElement, Uuid, any_, literal, literal_column, tuple_


class KeysetCursor(NamedTuple):
    """The last row of a page: the value it is sorted by, and its id."""

    value: datetime | str
    id: UUID


def after_condition(
    column: ColumnElement[Any],
    id_column: ColumnElement[UUID],
    after: KeysetCursor,
    *,
    descending: bool,
) -> ColumnElement[bool]:
    """Tell the rows that come after a place, in an order by the column and then the id."""
    row = tuple_(column, id_column)
    place = tuple_(literal(after.value, column.type), literal(after.id, id_column.type))
    return row < place if descending else row > place


def limit_literal(number: int) -> ColumnElement[int]:
    """Give a number of rows for LIMIT or OFFSET, written into the statement.

    As a parameter it would be unknown to a generic plan, which takes it for a tenth of all.
    """
    return literal_column(str(int(number)))


def any_of(column: ColumnElement[UUID], ids: Sequence[UUID]) -> ColumnElement[bool]:
    """Tell the rows whose id is among many: one parameter, so one statement for any number."""
    return column == any_(literal(list(ids), ARRAY(Uuid)))
