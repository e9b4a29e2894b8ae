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
from tamatar_auth.storage.instrumentation.queries import QueryWatch
from tamatar_auth.storage.instrumentation.statement_summary import subject

Query: TypeAlias = Select[Any] | CompoundSelect[Any]

OUTDATED = (psycopg.errors.FeatureNotSupported, psycopg.errors.InvalidSqlStatementName)
"""What PostgreSQL says of a prepared statement whose columns a migration has changed since, or
that is not there: behind a pooler is another server by now. None of it has run."""

_numbers = itertools.count()


class Prepared(NamedTuple):
    """A statement that is prepared on a connection."""

    name: bytes
    transformer: abc.Transformer
    """What turns its values and rows into those of PostgreSQL and back."""


class PlainStatement:
    """A statement of SQLAlchemy that is compiled once, and prepared once on each connection.

    It is sent through libpq, and its rows are tuples: what psycopg's cursors do around that
    would cost as much again. The values that are named in `binary` are sent as their types are
    registered with psycopg, and others as text, from which PostgreSQL reads any type.
    """

    def __init__(
        self, statement: Query, watch: QueryWatch, *, binary: Collection[str] = ()
    ) -> None:
        dialect = PGDialect_psycopg(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
        compiled = statement.compile(dialect=dialect)
        self._text = compiled.string
        self._names: Sequence[str] = compiled.positiontup or ()
        self._forms = [PyFormat.BINARY if name in binary else PyFormat.TEXT for name in self._names]
        self._fixed = compiled.params
        self._about = subject(compiled, self._text)
        self._watch = watch

    async def rows(self, connection: Connection, **values: object) -> Sequence[tuple[Any, ...]]:
        """Return the rows, or raise what psycopg raises."""
        watched = self._watch.begin(self._about, self._text, connection.info)
        given = {**self._fixed, **values}
        try:
            rows = await self._asked(connection, [given[name] for name in self._names])
        except BaseException as error:
            self._watch.end(watched, self._about, error)
            raise
        self._watch.end(watched, self._about, None)
        return rows

    async def _asked(
        self, connection: Connection, values: Sequence[object]
    ) -> Sequence[tuple[Any, ...]]:
        prepared = connection.prepared.get(self._text)
        if prepared is None:
            return await self._asked_first(connection, values)
        try:
            return await self._run(connection, prepared, values, is_first=False)
        except OUTDATED:
            return await self._asked_first(connection, values)

    async def _asked_first(
        self, connection: Connection, values: Sequence[object]
    ) -> Sequence[tuple[Any, ...]]:
        prepared = Prepared(f"plain_{next(_numbers)}".encode(), Transformer(connection))
        await connection.wait(_preparing(connection.pgconn, prepared.name, self._text))
        rows = await self._run(connection, prepared, values, is_first=True)
        connection.prepared[self._text] = prepared
        return rows

    async def _run(
        self,
        connection: Connection,
        prepared: Prepared,
        values: Sequence[object],
        *,
        is_first: bool,
    ) -> Sequence[tuple[Any, ...]]:
        name, transformer = prepared
        written = transformer.dump_sequence(values, self._forms)
        asked = _running(connection.pgconn, name, written, transformer.formats)
        result = await connection.wait(asked)
        transformer.set_pgresult(result, set_loaders=is_first)  # its columns stay what they are
        rows = transformer.load_rows(0, result.ntuples, tuple)
        transformer.set_pgresult(None, set_loaders=False)
        return rows


def _preparing(server: PGconn, name: bytes, text: str) -> abc.PQGen[None]:
    server.send_prepare(name, text.encode())
    yield from _answer(server)


def _running(
    server: PGconn,
    name: bytes,
    values: Sequence[abc.Buffer | None],
    formats: Sequence[Format] | None,
) -> abc.PQGen[PGresult]:
    server.send_query_prepared(name, values, formats, Format.BINARY)
    return (yield from _answer(server))


def _answer(server: PGconn) -> abc.PQGen[PGresult]:
    result: PGresult
    (result,) = yield from execute(server)
    if result.status == ExecStatus.FATAL_ERROR:
        raise psycopg.errors.error_from_result(result)
    return result
