"""Follows the database: whether it answers and has the tables that this release needs."""

import asyncio

import structlog

from tamatar_auth.config.database import DatabaseSettings
from tamatar_auth.servicers.health import HealthServicer
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.driver.liveness import SUSPECT_AFTER
from tamatar_auth.storage.driver.orphaned_statements import OrphanedStatements
from tamatar_auth.storage.engine import create_engine
from tamatar_auth.storage.readiness import readiness_problem

CHECK_TIMEOUT = 1.5
"""Seconds after which a database that has not answered counts as lost."""

log = structlog.get_logger(__name__)


class DatabaseMonitor:
    """Looks at the database again and again and tells the health service what it finds.

    It has a connection of its own: a pool that is in full use is no lost database.
    """

    def __init__(
        self,
        settings: DatabaseSettings,
        health: HealthServicer,
        head: str,
        orphaned: OrphanedStatements,
    ) -> None:
        # It decides by itself what is too long.
        monitor_settings = settings.model_copy(update={"pool_wait": settings.connect_timeout})
        engine = create_engine(
            monitor_settings, orphaned, pool_size=1, cancelled_limit=SUSPECT_AFTER
        )
        self._database = Database(engine, orphaned)
        self._interval = settings.health_interval.total_seconds()
        self._health = health
        self._head = head
        self._reported_problem: str | None = "not looked at yet"

    async def run(self) -> None:
        """Look for as long as the server runs."""
        while True:
            await self.check()
            await asyncio.sleep(self._interval)

    async def check(self) -> None:
        """Look once, and say what changed."""
        why = await self._find_problem()
        if why == self._reported_problem:
            return
        self._reported_problem = why
        await self._health.set_all(serving=why is None)
        if why is None:
            log.info("serving")
        else:
            log.error("not serving", why=why)

    async def close(self) -> None:
        """Give the connection back."""
        await self._database.close()

    async def _find_problem(self) -> str | None:
        # A connection whose server answers no more is left: the next look has another one.
        try:
            async with asyncio.timeout(CHECK_TIMEOUT):
                return await readiness_problem(self._database, self._head)
        except TimeoutError:
            return "the database does not answer"
