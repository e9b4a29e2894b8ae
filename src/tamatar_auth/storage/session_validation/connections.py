"""Connections that are kept for one kind of statement, which runs on them without SQLAlchemy.

The statements that all calls of a kind share are worth it: calls that hold every connection of
the pool do not keep them waiting, and what SQLAlchemy does around a statement, several times
the work of the statement itself, is done once.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from time import monotonic

import psycopg
from psycopg.types.numeric import Int8BinaryLoader

from tamatar_auth.config.settings import Settings
from tamatar_auth.errors import ServiceStopping
from tamatar_auth.errors.storage import StorageUnavailable
from tamatar_auth.storage.driver.connect import connecting, is_dead
from tamatar_auth.storage.driver.connection import Abandoned, Connection
from tamatar_auth.storage.driver.liveness import SUSPICIOUS
from tamatar_auth.storage.instrumentation.pool_metrics import Connections
from tamatar_auth.storage.instrumentation.queries import QueryWatch
from tamatar_auth.storage.session_validation.prepared import PlainStatement, Query

PLANS = "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_bitmapscan=off"
"""Options for statements that find rows by an index: planned once, whatever the statistics say,
as planning takes longer than finding a row."""

PLANS_LAST = 10.0
"""Seconds after which a connection plans anew: what was planned for a table of a few rows may
read all of it."""

LONGEST_REST = 30.0
"""Seconds after which a connection that nobody has needed is closed."""


@dataclass(slots=True)
class _Kept:
    """A connection, and when it was opened, has begun to plan, and came back."""

    connection: Connection
    opened_at: float
    planned_at: float = field(default_factory=monotonic)
    rests_since: float = 0.0


class ReservedConnections:
    """Lends connections, opens one when none rests, and throws away what failed.

    It lends as many as are asked for at once: `most` is the bound of those who ask. Moments come
    from them as PostgreSQL sends them: as microseconds since 2000-01-01.
    """

    def __init__(
        self,
        settings: Settings,
        watch: QueryWatch,
        most: int,
        abandoned: Abandoned | None = None,
    ) -> None:
        self._watch = watch
        self._most, self._lent = most, 0
        self._connect = connecting(
            settings, abandoned or Abandoned(), options=PLANS, left=SUSPICIOUS, autocommit=True
        )
        self._oldest = settings.pool_recycle.total_seconds()
        self._resting: list[_Kept] = []
        self._patience = settings.pool_wait.total_seconds()
        self._good_from = 0.0
        self._is_closed = False

    def statement(self, statement: Query, *, binary: Collection[str] = ()) -> PlainStatement:
        """Make of a statement one for these connections; `binary` is as for `PlainStatement`."""
        return PlainStatement(statement, self._watch, binary=binary)

    @contextlib.asynccontextmanager
    async def lend(self) -> AsyncIterator[Connection]:
        """Lend a connection whose statements are each a transaction of its own."""
        if self._is_closed:
            raise ServiceStopping
        self._lent += 1
        try:
            kept = await self._rested() or await self._opened()
            try:
                await _plan_anew(kept)
                yield kept.connection
            except BaseException:  # what state it is in is not known
                await kept.connection.close()
                raise
            await self._keep(kept)
        finally:
            self._lent -= 1

    def count(self) -> Connections:
        """Count the connections."""
        return Connections(self._lent, len(self._resting), self._most)

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

    async def _keep(self, kept: _Kept) -> None:
        """Keep a connection that came back, unless it is to lead elsewhere or to nobody."""
        if self._is_closed or kept.opened_at < self._good_from:
            await kept.connection.close()
        else:
            kept.rests_since = monotonic()
            self._resting.append(kept)
            await self._close_what_rests_long()

    async def _close_what_rests_long(self) -> None:
        # The last that came back is lent first, so those that are not needed stay in front.
        longest = monotonic() - LONGEST_REST
        while len(self._resting) > 1 and self._resting[0].rests_since < longest:
            await self._resting.pop(0).connection.close()

    async def _opened(self) -> _Kept:
        try:
            async with asyncio.timeout(self._patience):
                connection = await self._connect()
                connection.adapters.register_loader("timestamptz", Int8BinaryLoader)
                return _Kept(connection, connection.began_at)
        except TimeoutError:
            raise StorageUnavailable from None

    async def _rested(self) -> _Kept | None:
        while self._resting:
            kept = self._resting.pop()
            is_young = kept.opened_at >= max(self._good_from, monotonic() - self._oldest)
            if is_young and not is_dead(kept.connection):
                return kept
            await kept.connection.close()
        return None


async def _plan_anew(kept: _Kept) -> None:
    """Forget plans that are old."""
    if monotonic() - kept.planned_at > PLANS_LAST:
        await kept.connection.execute("DISCARD PLANS", prepare=False)
        kept.planned_at = monotonic()
