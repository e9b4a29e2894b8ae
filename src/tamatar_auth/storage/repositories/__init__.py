"""Repositories: one class per table or use case, one statement per method."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Executable, Row, any_, bindparam, literal, literal_column, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql import ColumnElement
from sqlalchemy.types import ARRAY, Uuid

from tamatar_auth.errors import Failure


class Repository:
    """Runs statements over one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def _one(
        self, statement: Executable, values: Mapping[str, object], failure: Failure | type[Failure]
    ) -> Row[Any]:
        """Return the row of a statement, or raise `failure` if there is none."""
        row = (await self._connection.execute(statement, values)).one_or_none()
        if row is None:
            raise failure
        return row


class KeysetCursor(NamedTuple):
    """The last row of a page: the value that sorts it, and its id."""

    value: datetime | str
    id: UUID


def after_condition(
    column: ColumnElement[Any],
    id_column: ColumnElement[UUID],
    after: KeysetCursor,
    *,
    descending: bool,
) -> ColumnElement[bool]:
    """Return the condition for rows after a cursor, in an order by the column and then the id."""
    row = tuple_(column, id_column)
    place = tuple_(literal(after.value, column.type), literal(after.id, id_column.type))
    return row < place if descending else row > place


def limit_literal(number: int) -> ColumnElement[int]:
    """Return a number for LIMIT or OFFSET, written into the statement.

    The planner knows no parameter of a generic plan: it assumes a tenth of all rows.
    """
    return literal_column(str(int(number)))


def scan_limit(number: int) -> ColumnElement[int]:
    """Return a number for the LIMIT of an ordered scan of a range, which the planner cannot see.

    It assumes a tenth of the range, so it reads the index in order. With the number, it could
    read and sort all of a range that it believes to be small.
    """
    return select(limit_literal(number)).scalar_subquery()


def any_of(column: ColumnElement[Any], parameter: str) -> ColumnElement[bool]:
    """Return the condition for rows whose id is in an array: one parameter for any number."""
    return column == any_(bindparam(parameter, type_=ARRAY(Uuid)))
