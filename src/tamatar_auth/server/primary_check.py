"""Checks that the database server still is the primary, and finds the one that is."""

import asyncio

from tamatar_auth.config.database import DatabaseSettings
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.driver.connect import libpq_url
from tamatar_auth.storage.driver.orphaned_statements import OrphanedStatements
from tamatar_auth.storage.primary_heartbeat import PrimaryHeartbeat
from tamatar_auth.storage.readiness import Readiness

UNCONFIRMED = Readiness(
    "no synchronous standby acknowledges the commits of the server: its standbys are away,"
    " or another server has taken over"
)


class PrimaryCheck:
    """Closes the fence while the primary is not confirmed, and opens it again."""

    def __init__(self, settings: DatabaseSettings, orphaned: OrphanedStatements) -> None:
        self._heartbeat = PrimaryHeartbeat(settings, orphaned)
        self._is_enabled = bool(settings.primary_acknowledged_within)
        self._fence, self._hosts = orphaned.fence, orphaned.hosts
        urls = [settings.url, settings.listener_url]
        self._urls = {libpq_url(settings.model_copy(update={"url": url})) for url in urls if url}

    async def find_primary(self) -> None:
        """Find the primary among the hosts of the URLs if the fence is closed."""
        if self._fence.closed.is_set():
            await asyncio.gather(*map(self._hosts.choose, self._urls))

    async def confirm(self, found: Readiness, *databases: Database) -> Readiness:
        """Return what was found, or `UNCONFIRMED`. The first database that answers decides."""
        if not found.reads:
            return found
        confirmed: bool | None = True
        if self._is_enabled and found.is_synchronous:
            for database in databases:
                confirmed = await self._heartbeat.confirm(database)
                if confirmed is not None:
                    break
        if confirmed is False:
            self._fence.close()
            return UNCONFIRMED
        if confirmed:
            self._fence.open()
        return UNCONFIRMED if self._fence.closed.is_set() else found

    async def wait_for_doubt(self, seconds: float) -> None:
        """Return once the fence is closed, or after that time."""
        try:
            await asyncio.wait_for(self._fence.closed.wait(), seconds)
        except TimeoutError:
            return

    async def close(self) -> None:
        """Close the connection of the heartbeat."""
        await self._heartbeat.close()
