"""Cursors that prepare a statement again if PostgreSQL no longer accepts its plan."""

from collections.abc import Iterator, Sequence
from typing import Any, Self

import psycopg
from psycopg import Column
from psycopg.pq import TransactionStatus

from tamatar_auth.storage import sqlstates


class RepeatingCursor(psycopg.AsyncCursor[Any]):
    """A cursor that repeats a statement whose prepared form is stale, outside of a transaction.

    Such a statement did not run. In a transaction the error ends the transaction: psycopg forgets
    its prepared statements at the rollback, so the transaction can run again.
    """

    async def execute(self, *arguments: Any, **options: Any) -> Self:
        """Execute a statement as psycopg does."""
        try:
            return await super().execute(*arguments, **options)
        except psycopg.Error as error:
            if not sqlstates.is_stale_statement(error):
                raise
            if self.connection.info.transaction_status != TransactionStatus.IDLE:
                raise
        await self.connection.execute("DEALLOCATE ALL", prepare=False)  # psycopg forgets its names
        return await super().execute(*arguments, **options)


class RawCursor(RepeatingCursor, psycopg.AsyncRawCursor[Any]):
    """A cursor for statements with the placeholders of PostgreSQL."""


class Cursor(RepeatingCursor, psycopg.AsyncCursor[Any]):
    """A cursor that describes the columns of its result only on demand.

    SQLAlchemy gets the description after every statement, but reads it only the first time. For
    24 columns psycopg builds it in about 30 µs, a twelfth of a statement's cost here.
    """

    @property
    def description(self) -> Any:
        """The columns of the result, or None if the statement returns no rows."""
        result = self.pgresult
        return LazyDescription(self, result.nfields) if result and result.nfields else None


class LazyDescription(Sequence[Column]):
    """The columns of a cursor's present result."""

    def __init__(self, cursor: Cursor, width: int) -> None:
        self._cursor = cursor
        self._width = width

    def __len__(self) -> int:
        return self._width

    def __getitem__(self, place: Any) -> Any:
        return [*self][place]

    def __iter__(self) -> Iterator[Column]:
        return (Column(self._cursor, place) for place in range(self._width))
