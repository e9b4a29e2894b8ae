"""Connections that are kept for one kind of statement, which runs on them without SQLAlchemy.

The statements that all calls of a kind share are worth it: calls that hold every connection of
the pool do not keep them waiting, and what SQLAlchemy does around a statement, several times
the work of the statement itself, is done once.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from time import monotonic

import psycopg
from psycopg.types.numeric import Int8BinaryLoader

from tamatar_auth.config.database import DatabaseSettings
from tamatar_auth.errors import ServiceStopping
from tamatar_auth.errors.storage import StorageUnavailable
from tamatar_auth.storage.driver.connect import connector, is_dead
from tamatar_auth.storage.driver.connection import Connection
from tamatar_auth.storage.driver.liveness import SUSPECT_AFTER
from tamatar_auth.storage.driver.orphaned_statements import OrphanedStatements
from tamatar_auth.storage.instrumentation.pool_metrics import PoolUsage
from tamatar_auth.storage.instrumentation.queries import StatementObserver
from tamatar_auth.storage.session_validation.prepared import PreparedStatement, SelectStatement

INDEX_PLAN_OPTIONS = (
    "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_bitmapscan=off"
)
"""Options for statements that find rows by an index: planned once, whatever the statistics say,
as planning takes longer than finding a row."""

PLAN_LIFETIME = 10.0
"""Seconds after which a connection plans anew: what was planned for a table of a few rows may
read all of it."""

MAX_IDLE_TIME = 30.0
"""Seconds after which a connection that nobody has needed is closed."""


@dataclass(slots=True)
class _PooledConnection:
    """A connection, and when it was opened, has begun to plan, and came back."""

    connection: Connection
    opened_at: float
    planned_at: float = field(default_factory=monotonic)
    idle_since: float = 0.0


class DedicatedPool:
    """Lends connections, opens one when none rests, and throws away what failed.

    It lends as many as are asked for at once: `most` is the bound of those who ask. Moments come
    from them as PostgreSQL sends them: as microseconds since 2000-01-01.
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
        self._connect = connector(
            settings,
            orphaned or OrphanedStatements(),
            options=INDEX_PLAN_OPTIONS,
            cancelled_limit=SUSPECT_AFTER,
            autocommit=True,
        )
        self._max_age = settings.pool_recycle.total_seconds()
        self._idle: list[_PooledConnection] = []
        self._acquire_timeout = settings.pool_wait.total_seconds()
        self._valid_from = 0.0
        self._is_closed = False

    def statement(self, statement: SelectStatement) -> PreparedStatement:
        """Return a statement to run on these connections."""
        return PreparedStatement(statement, self._observer)

    @contextlib.asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        """Lend a connection whose statements are each a transaction of its own."""
        if self._is_closed:
            raise ServiceStopping
        self._in_use += 1
        try:
            pooled = await self._find_idle() or await self._open()
            try:
                await _discard_old_plans(pooled)
                yield pooled.connection
            except BaseException:  # what state it is in is not known
                await pooled.connection.close()
                raise
            await self._release(pooled)
        finally:
            self._in_use -= 1

    def count(self) -> PoolUsage:
        """Count the connections."""
        return PoolUsage(self._in_use, len(self._idle), self._max_size)

    async def warm_up(self) -> None:
        """Open a connection, so that the first call does not wait for it."""
        with contextlib.suppress(psycopg.Error, OSError, StorageUnavailable):
            async with self.acquire():
                pass

    def invalidate(self) -> None:
        """Lend no more what was opened before: it leads to the wrong server."""
        self._valid_from = monotonic()

    async def close(self) -> None:
        """Close the connections that rest, and those that are lent when they come back."""
        self._is_closed = True
        while self._idle:
            await self._idle.pop().connection.close()

    async def _release(self, pooled: _PooledConnection) -> None:
        """Keep a connection that came back, unless it is to lead elsewhere or to nobody."""
        if self._is_closed or pooled.opened_at < self._valid_from:
            await pooled.connection.close()
        else:
            pooled.idle_since = monotonic()
            self._idle.append(pooled)
            await self._close_idle()

    async def _close_idle(self) -> None:
        # The last that came back is lent first, so those that are not needed stay in front.
        cutoff = monotonic() - MAX_IDLE_TIME
        while len(self._idle) > 1 and self._idle[0].idle_since < cutoff:
            await self._idle.pop(0).connection.close()

    async def _open(self) -> _PooledConnection:
        try:
            async with asyncio.timeout(self._acquire_timeout):
                connection = await self._connect()
                connection.adapters.register_loader("timestamptz", Int8BinaryLoader)
                return _PooledConnection(connection, connection.connect_started_at)
        except TimeoutError:
            raise StorageUnavailable from None

    async def _find_idle(self) -> _PooledConnection | None:
        while self._idle:
            pooled = self._idle.pop()
            is_usable = pooled.opened_at >= max(self._valid_from, monotonic() - self._max_age)
            if is_usable and not is_dead(pooled.connection):
                return pooled
            await pooled.connection.close()
        return None


async def _discard_old_plans(pooled: _PooledConnection) -> None:
    """Forget plans that are old."""
    if monotonic() - pooled.planned_at > PLAN_LIFETIME:
        await pooled.connection.execute("DISCARD PLANS", prepare=False)
        pooled.planned_at = monotonic()
