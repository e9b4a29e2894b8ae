"""Checks whether the database is usable, and sets the status of the health service."""

import asyncio
from time import monotonic

import structlog

from tamatar_auth.config.database import DatabaseSettings
from tamatar_auth.errors import ServerBusy
from tamatar_auth.server.primary_check import PrimaryCheck
from tamatar_auth.servicers.health import HealthServicer
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.driver.connect import connector
from tamatar_auth.storage.driver.liveness import SUSPECT_AFTER
from tamatar_auth.storage.driver.orphaned_statements import OrphanedStatements
from tamatar_auth.storage.driver.pooler import find_pooler_problem
from tamatar_auth.storage.engine import create_engine
from tamatar_auth.storage.readiness import Readiness, check_readiness

CHECK_INTERVAL = 1.0
"""Seconds between two checks."""

CHECK_TIMEOUT = 1.5
"""Seconds after which a database that has not answered counts as lost."""

RECHECK_INTERVAL = 0.5
"""Seconds between two checks of a database that is not usable."""

CONNECT_WAIT = 0.5
"""Seconds that a check waits for its own connection before it uses one of the calls."""

log = structlog.get_logger(__name__)


class DatabaseMonitor:
    """Checks the database again and again.

    It has a connection of its own, because a pool that is in full use is no lost database. If it
    cannot open one, it borrows one of the calls: a server out of connections is not lost either.
    """

    def __init__(
        self,
        settings: DatabaseSettings,
        calls: Database,
        health: HealthServicer,
        head: str,
        orphaned: OrphanedStatements,
    ) -> None:
        engine = create_engine(
            settings,
            orphaned,
            pool_size=1,
            pool_wait=CONNECT_WAIT,
            cancelled_limit=SUSPECT_AFTER,
        )
        self._own = Database(engine, orphaned)
        self._primary = PrimaryCheck(settings, orphaned)
        self._connect = connector(settings, orphaned, autocommit=True)
        self._calls = calls
        self._health = health
        self._head = head
        self._failure_detector = orphaned.failure_detector
        self._readiness = Readiness("not checked yet")
        self._must_reconnect = False

    def reconnect(self) -> None:
        """Open another connection for the next check, because a call met a read-only server."""
        self._must_reconnect = True

    async def run(self) -> None:
        """Check until the task is cancelled."""
        while True:
            await self.check()
            if self._readiness.problem is None:
                await self._primary.wait_for_doubt(CHECK_INTERVAL)
            else:
                await asyncio.sleep(RECHECK_INTERVAL)

    async def check(self) -> None:
        """Check once. Set the health status and write a log line if the result has changed."""
        found = await self._find_readiness()
        before, self._readiness = self._readiness, found
        if (found.problem, found.reads) == (before.problem, before.reads):
            return
        await self._health.set_status(reads=found.reads, writes=found.problem is None)
        if found.problem is None:
            log.info("serving")
        elif found.reads:
            log.error("serving reads only", why=found.problem)
        else:
            log.error("not serving", why=found.problem)

    async def close(self) -> None:
        """Close the connections."""
        await self._primary.close()
        await self._own.close()

    async def _find_readiness(self) -> Readiness:
        await self._primary.find_primary()
        found = await self._read_readiness()
        return await self._primary.confirm(found, self._own, self._calls)

    async def _read_readiness(self) -> Readiness:
        # A check that times out abandons its connection, so the next one opens another.
        try:
            async with asyncio.timeout(CHECK_TIMEOUT):
                found = await self._check_own()
            if not found.reads:
                async with asyncio.timeout(CHECK_TIMEOUT):
                    found = await self._check(self._calls)
        except TimeoutError:
            return Readiness("the database does not answer")
        except ServerBusy:  # calls hold all connections: their ends will show what has changed
            return self._readiness
        if found.reads and not self._readiness.reads:
            problem = await find_pooler_problem(self._connect)
            return Readiness(problem) if problem else found
        return found

    async def _check_own(self) -> Readiness:
        was_read_only = self._readiness.is_read_only
        if was_read_only or self._must_reconnect:
            # With several hosts in the URL, another one may write. Defaults of a role or a
            # database apply to new connections only.
            self._must_reconnect = False
            await self._own.engine.dispose()
        found = await self._check(self._own)
        if found.reads and found.is_read_only != was_read_only:
            # Replace all connections: validations would otherwise read a former primary.
            self._failure_detector.report_silence(monotonic())
            found = await self._check(self._own)
        return found

    async def _check(self, database: Database) -> Readiness:
        return await check_readiness(database, self._head, expects_tables=self._readiness.reads)
