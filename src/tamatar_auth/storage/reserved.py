"""Connections that are kept for one kind of statement, which runs on them without SQLAlchemy.

The statements that all calls of a kind share are worth it: calls that hold every connection of
the pool do not keep them waiting, and what SQLAlchemy does around a statement, several times
the work of the statement itself, is done once.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from time import monotonic, perf_counter
from typing import Any, NamedTuple

import psycopg
from sqlalchemy import Select
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from tamatar_auth.errors.storage import StorageUnavailable
from tamatar_auth.settings import Settings
from tamatar_auth.storage.abandoned import Abandoned, Connection
from tamatar_auth.storage.connecting import connecting, is_dead
from tamatar_auth.storage.queries import QueryWatch
from tamatar_auth.storage.subjects import subject

PLANS = "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off"
"""Options for statements that find rows by an index: planned once, whatever the statistics say,
as planning takes longer than finding a row."""


class _Resting(NamedTuple):
    connection: Connection
    opened_at: float


class ReservedConnections:
    """Lends connections, opens one when none rests, and throws away what failed.

    It lends as many as are asked for at once: that has its bound where it is asked.
    """

    def __init__(
        self, settings: Settings, watch: QueryWatch, abandoned: Abandoned | None = None
    ) -> None:
        self._watch = watch
        self._connect = connecting(
            settings, abandoned or Abandoned(), options=PLANS, autocommit=True
        )
        self._oldest = settings.pool_recycle.total_seconds()
        self._resting: list[_Resting] = []
        self._patience = settings.pool_wait.total_seconds()
        self._good_from = 0.0
        self._is_closed = False

    def statement(self, statement: Select[Any]) -> "PlainStatement":
        """Prepare a statement for these connections."""
        return PlainStatement(statement, self._watch)

    @contextlib.asynccontextmanager
    async def lend(self) -> AsyncIterator[Connection]:
        """Lend a connection whose statements are each a transaction of its own."""
        lent = await self._rested() or await self._opened()
        try:
            yield lent.connection
        except BaseException:  # what state it is in is not known
            await lent.connection.close()
            raise
        if self._is_closed or lent.opened_at < self._good_from:
            await lent.connection.close()
        else:
            self._resting.append(lent)

    async def fill(self) -> None:
        """Open a connection, so that the first call does not wait for it."""
        with contextlib.suppress(psycopg.Error, OSError, StorageUnavailable):
            async with self.lend():
                pass

    def forget(self) -> None:
        """Lend no more what was opened before: it leads to the wrong server."""
        self._good_from = monotonic()

    async def close(self) -> None:
        """Close the connections that rest, and those that are lent when they come back."""
        self._is_closed = True
        while self._resting:
            await self._resting.pop().connection.close()

    async def _opened(self) -> _Resting:
        try:
            async with asyncio.timeout(self._patience):
                return _Resting(await self._connect(), monotonic())
        except TimeoutError:
            raise StorageUnavailable from None

    async def _rested(self) -> _Resting | None:
        while self._resting:
            rested = self._resting.pop()
            is_young = rested.opened_at >= max(self._good_from, monotonic() - self._oldest)
            if is_young and not is_dead(rested.connection):
                return rested
            await rested.connection.close()
        return None


class PlainStatement:
    """A statement of SQLAlchemy in psycopg's words: compiled once, its rows are tuples."""

    def __init__(self, statement: Select[Any], watch: QueryWatch) -> None:
        compiled = statement.compile(dialect=PGDialect_psycopg())  # type: ignore[no-untyped-call]
        self._text = compiled.string
        self._fixed = compiled.params
        self._about = subject(compiled, self._text)
        self._watch = watch

    async def rows(self, connection: Connection, **values: object) -> Sequence[tuple[Any, ...]]:
        """Return the rows, or raise what psycopg raises."""
        started = perf_counter()
        error: BaseException | None = None
        try:
            cursor = await connection.execute(self._text, {**self._fixed, **values}, binary=True)
            return await cursor.fetchall()
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._watch.told(self._about, perf_counter() - started, error)
