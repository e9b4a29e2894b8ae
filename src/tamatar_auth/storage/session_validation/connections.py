"""A pool of connections for ValidateSession, whose statement runs without SQLAlchemy.

Calls that hold every connection of SQLAlchemy's pool do not delay validations. And the work of
SQLAlchemy around a statement, several times that of the statement itself, is done only once.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, TypeAlias

import psycopg
from psycopg.types.numeric import Int8BinaryLoader
from sqlalchemy import CompoundSelect, TextClause
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from tamatar_auth.config.database import DatabaseSettings
from tamatar_auth.errors import ServiceStopping
from tamatar_auth.errors.storage import StorageUnavailable
from tamatar_auth.storage.driver import limits
from tamatar_auth.storage.driver.connect import connector, is_dead
from tamatar_auth.storage.driver.connection import Connection
from tamatar_auth.storage.driver.cursors import RawCursor
from tamatar_auth.storage.driver.liveness import SUSPECT_AFTER
from tamatar_auth.storage.driver.orphaned_statements import OrphanedStatements
from tamatar_auth.storage.instrumentation.pool_metrics import PoolUsage
from tamatar_auth.storage.instrumentation.queries import StatementObserver
from tamatar_auth.storage.instrumentation.statement_summary import summarize

AnyStatement: TypeAlias = CompoundSelect[Any] | TextClause

PLAN_LIFETIME = 10.0
"""Seconds after which a connection discards its plans. A plan that was made for a table of a few
rows may read the whole table."""

MAX_IDLE_TIME = 30.0
"""Seconds after which an unused connection is closed."""


@dataclass(slots=True)
class _PooledConnection:
    """A connection with the times at which it was opened, planned and released."""

    connection: Connection
    opened_at: float
    planned_at: float = field(default_factory=monotonic)
    idle_since: float = 0.0


class DedicatedPool:
    """Lends connections, opens one when none is idle, and closes those that failed.

    It does not enforce `max_size`; its callers do. The connections return a timestamptz as
    PostgreSQL sends it, in microseconds since 2000-01-01.
    """

    def __init__(
        self,
        settings: DatabaseSettings,
        observer: StatementObserver,
        max_size: int,
        orphaned: OrphanedStatements | None = None,
    ) -> None:
        self._observer = observer
        self._max_size, self._in_use = max_size, 0
        self.acknowledged_within = settings.primary_acknowledged_within
        orphaned = orphaned or OrphanedStatements()
        self.fence = orphaned.fence
        self._connect = connector(
            settings,
            orphaned,
            options=limits.INDEX_PLAN_OPTIONS,
            cancelled_limit=SUSPECT_AFTER,
            observe=observer.observe_text,
            autocommit=True,
        )
        self._idle: list[_PooledConnection] = []
        self._valid_from = 0.0
        self._is_closed = False

    def statement(self, statement: AnyStatement) -> "PreparedStatement":
        """Return a statement to run on these connections."""
        return PreparedStatement(statement, self._observer)

    @contextlib.asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        """Lend a connection. Each statement on it is a transaction of its own."""
        if self._is_closed:
            raise ServiceStopping
        self.fence.require_open()
        self._in_use += 1
        try:
            pooled = await self._find_idle() or await self._open()
            try:
                if monotonic() - pooled.planned_at > PLAN_LIFETIME:
                    with pooled.connection.observed("DISCARD PLANS"):
                        await pooled.connection.execute("DISCARD PLANS", prepare=False)
                    pooled.planned_at = monotonic()
                yield pooled.connection
            except BaseException:  # the state of the connection is unknown
                await pooled.connection.close()
                raise
            await self._release(pooled)
        finally:
            self._in_use -= 1

    def count(self) -> PoolUsage:
        """Count the connections."""
        return PoolUsage(self._in_use, len(self._idle), self._max_size)

    async def warm_up(self) -> None:
        """Open a connection before the first call needs it."""
        with contextlib.suppress(psycopg.Error, OSError, StorageUnavailable):
            async with self.acquire():
                pass

    def invalidate(self) -> None:
        """Stop lending the connections that were opened before: they lead to the wrong server."""
        self._valid_from = monotonic()

    async def close(self) -> None:
        """Close the idle connections now, and the lent ones when they are released."""
        self._is_closed = True
        while self._idle:
            await self._idle.pop().connection.close()

    async def _release(self, pooled: _PooledConnection) -> None:
        """Keep a released connection, unless the pool is closed or has changed the server."""
        if self._is_closed or pooled.opened_at < self._valid_from:
            await pooled.connection.close()
            return
        pooled.idle_since = monotonic()
        self._idle.append(pooled)
        # The connection released last is lent first, so the unused ones are in front.
        while len(self._idle) > 1 and self._idle[0].idle_since < monotonic() - MAX_IDLE_TIME:
            await self._idle.pop(0).connection.close()

    async def _open(self) -> _PooledConnection:
        try:
            async with asyncio.timeout(limits.POOL_WAIT):
                connection = await self._connect()
                connection.adapters.register_loader("timestamptz", Int8BinaryLoader)
                return _PooledConnection(connection, connection.connect_started_at)
        except TimeoutError:
            raise StorageUnavailable from None

    async def _find_idle(self) -> _PooledConnection | None:
        while self._idle:
            pooled = self._idle.pop()
            valid_from = max(self._valid_from, monotonic() - limits.MAX_CONNECTION_AGE)
            if pooled.opened_at >= valid_from and not is_dead(pooled.connection):
                return pooled
            await pooled.connection.close()
        return None


class PreparedStatement:
    """A statement that SQLAlchemy compiles once, and psycopg prepares once on each connection."""

    def __init__(self, statement: AnyStatement, observer: StatementObserver) -> None:
        dialect = PGDialect_psycopg(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
        compiled = statement.compile(dialect=dialect)
        self.text = compiled.string
        self._names: Sequence[str] = compiled.positiontup or ()
        self._defaults = compiled.params
        self._summary = summarize(statement.get_execution_options(), self.text)
        self._observer = observer

    async def rows(self, connection: Connection, **values: object) -> Sequence[tuple[Any, ...]]:
        """Return the rows, or raise what psycopg raises."""
        with self.observed(connection):
            return await self._execute(connection, self.bind(values))

    def bind(self, values: Mapping[str, object]) -> Sequence[object]:
        """Return the values in the order of the statement's parameters."""
        bound = {**self._defaults, **values}
        return [bound[name] for name in self._names]

    def observed(self, connection: Connection) -> AbstractContextManager[None]:
        """Observe the statement while the block runs."""
        return self._observer.observe(self._summary, self.text, connection.info)

    async def _execute(
        self, connection: Connection, values: Sequence[object]
    ) -> Sequence[tuple[Any, ...]]:
        cursor = RawCursor(connection)
        await cursor.execute(self.text, values, prepare=True, binary=True)
        return await cursor.fetchall()
