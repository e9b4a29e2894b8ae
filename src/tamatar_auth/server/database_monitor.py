"""Follows the database: whether it answers and has the tables that this release needs."""

import asyncio

import structlog

from tamatar_auth.config.settings import Settings
from tamatar_auth.servicers.health import HealthServicer
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.driver.connection import Abandoned
from tamatar_auth.storage.driver.liveness import SUSPICIOUS
from tamatar_auth.storage.engine import create_engine
from tamatar_auth.storage.readiness import problem

PATIENCE = 1.5
"""Seconds after which a database that has not answered counts as lost."""

log = structlog.get_logger(__name__)


class DatabaseWatch:
    """Looks at the database again and again and tells the health service what it finds.

    It has a connection of its own: a pool that is in full use is no lost database.
    """

    def __init__(
        self, settings: Settings, health: HealthServicer, head: str, abandoned: Abandoned
    ) -> None:
        # It decides by itself what is too long.
        patient = settings.model_copy(update={"pool_wait": settings.connect_timeout})
        engine = create_engine(patient, abandoned, pool_size=1, left=SUSPICIOUS)
        self._database = Database(engine, abandoned)
        self._interval = settings.health_interval.total_seconds()
        self._health = health
        self._head = head
        self._said: str | None = "not looked at yet"

    async def run(self) -> None:
        """Look for as long as the server runs."""
        while True:
            await self.look()
            await asyncio.sleep(self._interval)

    async def look(self) -> None:
        """Look once, and say what changed."""
        why = await self._problem_in_time()
        if why == self._said:
            return
        self._said = why
        await self._health.set_all(serving=why is None)
        if why is None:
            log.info("serving")
        else:
            log.error("not serving", why=why)

    async def close(self) -> None:
        """Give the connection back."""
        await self._database.close()

    async def _problem_in_time(self) -> str | None:
        # A connection whose server answers no more is left: the next look has another one.
        try:
            async with asyncio.timeout(PATIENCE):
                return await problem(self._database, self._head)
        except TimeoutError:
            return "the database does not answer"
