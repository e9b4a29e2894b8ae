"""Writes down which sessions are in use: off the path of calls, and many at once."""

import asyncio
from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError

from tamatar_auth.errors.storage import StorageUnavailable
from tamatar_auth.storage.database import Database

PAUSE = 2.0
"""Seconds in which uses gather before they are written."""

LONGEST_WRITE = 10.0
"""Seconds after which a write is given up."""

MOST = 10_000
"""How many sessions are remembered meanwhile; the use of others is written the next time."""

log = structlog.get_logger(__name__)


class Activity:
    """Gathers the sessions that were used. Losing some costs accuracy and nothing else."""

    def __init__(self) -> None:
        self._used: set[UUID] = set()

    def note(self, session_id: UUID) -> None:
        """Remember that a session was used."""
        if len(self._used) < MOST:
            self._used.add(session_id)

    async def write(self, database: Database) -> None:
        """Write down what was gathered; a database that is away costs that."""
        used, self._used = self._used, set()
        if not used:
            return
        try:
            async with asyncio.timeout(LONGEST_WRITE), database.transaction() as tx:
                await tx.sessions.touch(list(used))
        except (SQLAlchemyError, OSError, StorageUnavailable, TimeoutError) as error:
            log.warning("activity was not written", error=type(error).__name__)

    async def write_for_ever(self, database: Database) -> None:
        """Write again and again."""
        while True:
            await asyncio.sleep(PAUSE)
            await self.write(database)
