"""Writes down which sessions are in use: off the path of calls, and many at once."""

import asyncio
from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError

from tamatar_auth.errors.storage import StorageUnavailable
from tamatar_auth.storage.database import Database

WRITE_INTERVAL = 2.0
"""Seconds in which uses gather before they are written."""

WRITE_TIMEOUT = 10.0
"""Seconds after which a write is given up."""

MAX_PENDING = 10_000
"""How many sessions are remembered meanwhile; the use of others is written the next time."""

log = structlog.get_logger(__name__)


class LastActivityWriter:
    """Gathers the sessions that were used. Losing some costs accuracy and nothing else."""

    def __init__(self) -> None:
        self._pending: set[UUID] = set()

    def record(self, session_id: UUID) -> None:
        """Remember that a session was used."""
        if len(self._pending) < MAX_PENDING:
            self._pending.add(session_id)

    async def flush(self, database: Database) -> None:
        """Write down what was gathered; a database that is away costs that."""
        session_ids, self._pending = self._pending, set()
        if not session_ids:
            return
        try:
            async with asyncio.timeout(WRITE_TIMEOUT), database.transaction() as tx:
                await tx.sessions.touch(list(session_ids))
        except (SQLAlchemyError, OSError, StorageUnavailable, TimeoutError) as error:
            log.warning("activity was not written", error=type(error).__name__)

    async def run_forever(self, database: Database) -> None:
        """Write again and again."""
        while True:
            await asyncio.sleep(WRITE_INTERVAL)
            await self.flush(database)
