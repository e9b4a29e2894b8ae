"""Statements that run without SQLAlchemy's engine, prepared on their connections."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import psycopg
from sqlalchemy import CompoundSelect, Select
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from tamatar_auth.storage.driver.connection import Connection
from tamatar_auth.storage.instrumentation.queries import StatementObserver
from tamatar_auth.storage.instrumentation.statement_summary import summarize

SelectStatement: TypeAlias = Select[Any] | CompoundSelect[Any]

STALE_STATEMENT_ERRORS = (
    psycopg.errors.FeatureNotSupported,
    psycopg.errors.InvalidSqlStatementName,
)
"""Errors of a prepared statement that did not run. A migration changed its columns, or it does
not exist because a pooler has switched to another server."""


class PreparedStatement:
    """A statement that SQLAlchemy compiles once, and psycopg prepares once on each connection."""

    def __init__(self, statement: SelectStatement, observer: StatementObserver) -> None:
        dialect = PGDialect_psycopg(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
        compiled = statement.compile(dialect=dialect)
        self._text = compiled.string
        self._names: Sequence[str] = compiled.positiontup or ()
        self._defaults = compiled.params
        self._summary = summarize(statement.get_execution_options(), self._text)
        self._observer = observer

    async def rows(self, connection: Connection, **values: object) -> Sequence[tuple[Any, ...]]:
        """Return the rows, or raise what psycopg raises."""
        running = self._observer.begin(self._summary, self._text, connection.info)
        bound = {**self._defaults, **values}
        try:
            rows = await self._execute(connection, [bound[name] for name in self._names])
        except BaseException as error:
            self._observer.end(running, self._summary, error)
            raise
        self._observer.end(running, self._summary, None)
        return rows

    async def _execute(
        self, connection: Connection, values: Sequence[object]
    ) -> Sequence[tuple[Any, ...]]:
        cursor: psycopg.AsyncRawCursor[tuple[Any, ...]] = psycopg.AsyncRawCursor(connection)
        try:
            await cursor.execute(self._text, values, prepare=True, binary=True)
        except STALE_STATEMENT_ERRORS:
            await connection.execute("DEALLOCATE ALL", prepare=False)  # psycopg forgets its names
            await cursor.execute(self._text, values, prepare=True, binary=True)
        return await cursor.fetchall()
