"""The heartbeat: a commit now and then that the standbys acknowledge, and its time as a row.

One process of all renews the row. It commits the time, and once the standbys have acknowledged
that commit, it marks the time as acknowledged. So a commit that becomes visible without an
acknowledgement, because its wait was cancelled or its server crashed, proves nothing.
"""

import asyncio
import contextlib

import psycopg
import structlog
from sqlalchemy import exc, text

from tamatar_auth.config.database import DatabaseSettings
from tamatar_auth.errors import Failure
from tamatar_auth.storage import sqlstates
from tamatar_auth.storage.acknowledgement import INTERVAL_SHARE, is_confirmed, is_due
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.driver import limits
from tamatar_auth.storage.driver.connect import connector, is_dead
from tamatar_auth.storage.driver.connection import Connection
from tamatar_auth.storage.driver.orphaned_statements import OrphanedStatements
from tamatar_auth.storage.repositories.diagnostics import HEALTH_CHECK_MARK

CONFIRM_TIMEOUT = 1.0
"""Seconds that a check waits for an acknowledgement."""

POLL_INTERVAL = 0.1
"""Seconds between two looks at the row while another process renews it."""

WAIT_FOR_STANDBYS = "on"
"""A `synchronous_commit`. The role or the URL may have set one that waits for no standby."""

WAIT_FOR_NOTHING = "off"
"""The same if the time is acknowledged already, and only its mark is written."""

# The row is locked until the commit. A process that freezes before it must not keep the others
# from renewing the row, whatever the URL says and a pooler drops. And the warning of a cancelled
# wait must arrive.
_BEGIN_SQL = """
    SELECT set_config('synchronous_commit', %s, true),
           set_config('idle_in_transaction_session_timeout', %s, true),
           set_config('client_min_messages', 'notice', true)
"""

_STATE_SQL = f"""
    SELECT {HEALTH_CHECK_MARK} {{is_confirmed}},
           NOT EXISTS (SELECT FROM primary_heartbeat WHERE NOT ({{is_due}}))
"""  # noqa: S608 - constants and numbers

_RESTORE_ROW_SQL = """
    INSERT INTO primary_heartbeat (id)
    SELECT true WHERE NOT EXISTS (SELECT FROM primary_heartbeat) ON CONFLICT DO NOTHING
"""

# The row stays locked while a commit waits for the standbys: other processes do not wait for it.
_SEND_SQL = """
    UPDATE primary_heartbeat SET sent_at = now()
    WHERE id IN (SELECT id FROM primary_heartbeat WHERE {is_due} FOR UPDATE SKIP LOCKED)
    RETURNING sent_at
"""

# A later time that another process has sent since makes this one superfluous.
_ACKNOWLEDGE_SQL = "UPDATE primary_heartbeat SET acknowledged_at = sent_at WHERE sent_at = %s"

log = structlog.get_logger(__name__)


class PrimaryHeartbeat:
    """Renews the row on a connection of its own, because a commit may wait for ever."""

    def __init__(self, settings: DatabaseSettings, orphaned: OrphanedStatements) -> None:
        within = settings.primary_acknowledged_within
        self._connect = connector(
            settings, orphaned, application_name=f"{limits.APPLICATION_NAME} heartbeat"
        )
        self._lock_limit = str(round((within / INTERVAL_SHARE).total_seconds() * 1000))
        self._send_sql = _SEND_SQL.format(is_due=is_due(within)).encode()
        self._state = text(
            _STATE_SQL.format(is_confirmed=is_confirmed(within), is_due=is_due(within))
        )
        self._connection: Connection | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._last_error: str | None = None

    async def confirm(self, database: Database) -> bool | None:
        """Return whether the server of `database` is confirmed, or None if it cannot be read.

        Renew the row if it is due.
        """
        confirmed: bool | None = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CONFIRM_TIMEOUT):
                while (confirmed := await self._read(database)) is False:
                    await self._wait_for_renewal()
        return confirmed

    async def close(self) -> None:
        """Stop renewing. A commit that has begun is left to `OrphanedStatements`."""
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.wait([self._renewal])
        await self._disconnect()

    async def _read(self, database: Database) -> bool | None:
        try:
            async with database.read() as db:
                confirmed, due = (await db.connection.execute(self._state)).one()
        except (exc.SQLAlchemyError, OSError, Failure):
            return None
        if due and (self._renewal is None or self._renewal.done()):
            self._renewal = asyncio.create_task(self._renew(), name="renew the heartbeat")
        return bool(confirmed)

    async def _wait_for_renewal(self) -> None:
        if self._renewal is not None and not self._renewal.done():
            await asyncio.wait([self._renewal])
        await asyncio.sleep(POLL_INTERVAL)

    async def _renew(self) -> None:
        error: str | None = None
        try:
            connection = await self._usable_connection()
            if (sent_at := await self._send(connection)) is not None:
                await self._acknowledge(connection, sent_at)
        except (psycopg.Error, OSError, Failure) as cause:
            error = sqlstates.sqlstate(cause) or type(cause).__name__
            await self._disconnect()
        except asyncio.CancelledError:
            await self._disconnect()
            raise
        if error != self._last_error and error is not None:
            log.warning("heartbeat was not renewed", error=error)
        self._last_error = error

    async def _send(self, connection: Connection) -> object:
        """Commit the time, and return it once the standbys have it; None if it is not due."""
        await connection.execute(_BEGIN_SQL, [WAIT_FOR_STANDBYS, self._lock_limit])
        await connection.execute(_RESTORE_ROW_SQL)
        row = await (await connection.execute(self._send_sql)).fetchone()
        await connection.commit()
        return row[0] if row else None

    async def _acknowledge(self, connection: Connection, sent_at: object) -> None:
        await connection.execute(_BEGIN_SQL, [WAIT_FOR_NOTHING, self._lock_limit])
        await connection.execute(_ACKNOWLEDGE_SQL, [sent_at])
        await connection.commit()

    async def _usable_connection(self) -> Connection:
        if self._connection is not None and is_dead(self._connection):
            await self._disconnect()
        if self._connection is None:
            self._connection = await self._connect()
            # The row is written even if transactions are read-only by default.
            await self._connection.set_read_only(False)
        return self._connection

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
