"""Checks whether the database is usable, and sets the status of the health service."""

import asyncio

import structlog

from tamatar_auth.config.database import DatabaseSettings
from tamatar_auth.servicers.health import HealthServicer
from tamatar_auth.storage.database import Database, readiness_problem
from tamatar_auth.storage.driver import limits
from tamatar_auth.storage.driver.liveness import SUSPECT_AFTER
from tamatar_auth.storage.driver.orphaned_statements import OrphanedStatements
from tamatar_auth.storage.engine import create_engine

CHECK_INTERVAL = 1.0
"""Seconds between two checks."""

CHECK_TIMEOUT = 1.5
"""Seconds after which a database that has not answered counts as lost."""

RECHECK_INTERVAL = 0.5
"""Seconds between two checks of a database that is not usable."""

log = structlog.get_logger(__name__)


class DatabaseMonitor:
    """Checks the database again and again.

    It has a connection of its own, because a pool that is in full use is no lost database.
    """

    def __init__(
        self,
        settings: DatabaseSettings,
        health: HealthServicer,
        head: str,
        orphaned: OrphanedStatements,
    ) -> None:
        # `CHECK_TIMEOUT` alone bounds a check; the pool must not end it sooner.
        engine = create_engine(
            settings,
            orphaned,
            pool_size=1,
            pool_wait=limits.CONNECT_TIMEOUT,
            cancelled_limit=SUSPECT_AFTER,
        )
        self._database = Database(engine, orphaned)
        self._health = health
        self._head = head
        self._reported_problem: str | None = "not checked yet"

    async def run(self) -> None:
        """Check until the task is cancelled."""
        while True:
            await self.check()
            is_usable = self._reported_problem is None
            await asyncio.sleep(CHECK_INTERVAL if is_usable else RECHECK_INTERVAL)

    async def check(self) -> None:
        """Check once. Set the health status and write a log line if the result has changed."""
        problem = await self._find_problem()
        if problem == self._reported_problem:
            return
        self._reported_problem = problem
        await self._health.set_all(serving=problem is None)
        if problem is None:
            log.info("serving")
        else:
            log.error("not serving", why=problem)

    async def close(self) -> None:
        """Close the connection."""
        await self._database.close()

    async def _find_problem(self) -> str | None:
        # A check that times out abandons its connection, so the next one opens another.
        try:
            async with asyncio.timeout(CHECK_TIMEOUT):
                return await readiness_problem(self._database, self._head)
        except TimeoutError:
            return "the database does not answer"
