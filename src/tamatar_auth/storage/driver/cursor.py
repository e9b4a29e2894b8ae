"""A cursor that describes the columns of its result only on demand.

SQLAlchemy gets the description after every statement, but reads it only the first time. For 24
columns psycopg builds it in about 30 µs, a twelfth of all that a statement costs this process.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from psycopg import Column


class Cursor(psycopg.AsyncCursor[Any]):
    """A cursor with a lazy description."""

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
