"""Statements that run without SQLAlchemy, on connections that are kept for them."""

import itertools
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, TypeAlias

import psycopg
from psycopg import abc
from psycopg.adapt import PyFormat, Transformer
from psycopg.generators import execute
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGconn, PGresult
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
"""What PostgreSQL says of a prepared statement whose columns a migration has changed since, or
that is not there: behind a pooler is another server by now. None of it has run."""

_numbers = itertools.count()


class StatementHandle(NamedTuple):
    """A statement that is prepared on a connection."""

    name: bytes
    transformer: abc.Transformer
    """What turns its values and rows into those of PostgreSQL and back."""


class PreparedStatement:
    """A statement of SQLAlchemy that is compiled once, and prepared once on each connection.

    It is sent through libpq, and its rows are tuples: what psycopg's cursors do around that
    would cost as much again. The values that are named in `binary` are sent as their types are
    registered with psycopg, and others as text, from which PostgreSQL reads any type.
    """

    def __init__(
        self,
        statement: SelectStatement,
        observer: StatementObserver,
        *,
        binary: Collection[str] = (),
    ) -> None:
        dialect = PGDialect_psycopg(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
        compiled = statement.compile(dialect=dialect)
        self._text = compiled.string
        self._names: Sequence[str] = compiled.positiontup or ()
        self._parameter_formats = [
            PyFormat.BINARY if name in binary else PyFormat.TEXT for name in self._names
        ]
        self._defaults = compiled.params
        self._summary = summarize(compiled, self._text)
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
        prepared = connection.prepared.get(self._text)
        if prepared is None:
            return await self._prepare_and_execute(connection, values)
        try:
            return await self._execute_prepared(connection, prepared, values, is_first=False)
        except STALE_STATEMENT_ERRORS:
            return await self._prepare_and_execute(connection, values)

    async def _prepare_and_execute(
        self, connection: Connection, values: Sequence[object]
    ) -> Sequence[tuple[Any, ...]]:
        prepared = StatementHandle(f"plain_{next(_numbers)}".encode(), Transformer(connection))
        await connection.wait(_send_prepare(connection.pgconn, prepared.name, self._text))
        rows = await self._execute_prepared(connection, prepared, values, is_first=True)
        connection.prepared[self._text] = prepared
        return rows

    async def _execute_prepared(
        self,
        connection: Connection,
        prepared: StatementHandle,
        values: Sequence[object],
        *,
        is_first: bool,
    ) -> Sequence[tuple[Any, ...]]:
        name, transformer = prepared
        dumped = transformer.dump_sequence(values, self._parameter_formats)
        request = _send_execute(connection.pgconn, name, dumped, transformer.formats)
        result = await connection.wait(request)
        transformer.set_pgresult(result, set_loaders=is_first)  # its columns stay what they are
        rows = transformer.load_rows(0, result.ntuples, tuple)
        transformer.set_pgresult(None, set_loaders=False)
        return rows


def _send_prepare(pgconn: PGconn, name: bytes, text: str) -> abc.PQGen[None]:
    pgconn.send_prepare(name, text.encode())
    yield from _fetch_result(pgconn)


def _send_execute(
    pgconn: PGconn,
    name: bytes,
    values: Sequence[abc.Buffer | None],
    formats: Sequence[Format] | None,
) -> abc.PQGen[PGresult]:
    pgconn.send_query_prepared(name, values, formats, Format.BINARY)
    return (yield from _fetch_result(pgconn))


def _fetch_result(pgconn: PGconn) -> abc.PQGen[PGresult]:
    result: PGresult
    (result,) = yield from execute(pgconn)
    if result.status == ExecStatus.FATAL_ERROR:
        raise psycopg.errors.error_from_result(result)
    return result
