"""Writing the last activity of sessions, in the background and in batches."""

import asyncio
from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError

from tamatar_auth.errors.storage import StorageUnavailable
from tamatar_auth.storage.database import Database

WRITE_INTERVAL = 2.0
"""Seconds between two writes."""

WRITE_TIMEOUT = 10.0
"""Seconds after which a write is cancelled."""

MAX_PENDING = 10_000
"""Sessions remembered between two writes. Others are recorded by a later validation."""

log = structlog.get_logger(__name__)


class LastActivityWriter:
    """Collects the sessions that were used. Losing some only costs accuracy."""

    def __init__(self) -> None:
        self._pending: set[UUID] = set()

    def record(self, session_id: UUID) -> None:
        """Record that a session was used."""
        if len(self._pending) < MAX_PENDING:
            self._pending.add(session_id)

    async def flush(self, database: Database) -> None:
        """Write the recorded sessions. They are lost if the database is not available."""
        session_ids, self._pending = self._pending, set()
        if not session_ids:
            return
        try:
            async with asyncio.timeout(WRITE_TIMEOUT), database.transaction() as tx:
                await tx.sessions.touch(list(session_ids))
        except (SQLAlchemyError, OSError, StorageUnavailable, TimeoutError) as error:
            log.warning("activity was not written", error=type(error).__name__)

    async def run_forever(self, database: Database) -> None:
        """Write every `WRITE_INTERVAL` seconds."""
        while True:
            await asyncio.sleep(WRITE_INTERVAL)
            await self.flush(database)
