"""The connection that reads the ends of sessions, each once, from the table session_ends."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from psycopg.rows import namedtuple_row

from tamatar_auth.config.database import DatabaseSettings
from tamatar_auth.storage.acknowledgement import is_confirmed
from tamatar_auth.storage.driver import limits
from tamatar_auth.storage.driver.connect import connector
from tamatar_auth.storage.driver.connection import Connection, Observe
from tamatar_auth.storage.driver.opener import Connector
from tamatar_auth.storage.driver.orphaned_statements import OrphanedStatements

CHECK_TIMEOUT = 2.0
"""Seconds in which a new connection must answer."""

MAX_NEW_ENDS = 10_000
"""Ends that one read returns. More are a gap: each is more than a queue of a stream holds."""

REMOVAL_BATCH = 5000
"""Old rows that one transaction removes, between two reads."""

_IDENTITY_SQL = "SELECT pg_postmaster_start_time(), current_database()"

# A dump of another server may have left numbers of transactions that are still to come.
_BEGIN_SQL = """
    INSERT INTO session_end_log DEFAULT VALUES
    ON CONFLICT (id) DO UPDATE
    SET epoch = DEFAULT, removed_before = DEFAULT, removed_to = DEFAULT, marked = DEFAULT
    WHERE session_end_log.marked > pg_snapshot_xmax(pg_current_snapshot())
"""

# The new rows are those that the former snapshot did not show: of transactions that began after
# it, or that were running. A transaction that commits late keeps its early number.
_READ_SQL = """
    SELECT current_setting('transaction_read_only') = 'off' AS writes,
        (SELECT count(*) = 4 FROM pg_trigger
         WHERE tgrelid IN (to_regclass('sessions'), to_regclass('users'))
           AND tgenabled IN ('O', 'A')
           AND tgname IN ('sessions_tell_end', 'sessions_tell_deletion',
                          'sessions_tell_truncation', 'users_tell_end')) AS has_triggers,
        pg_postmaster_start_time() || ' ' || epoch AS place,
        pg_current_snapshot()::text AS snapshot,
        removed_before > pg_snapshot_xmin(former) AS has_gap,
        marked_at < now() - interval '10 s' AS has_old_rows,
        {is_confirmed} AS is_confirmed,
        users, sessions
    FROM session_end_log, CAST(%s AS pg_snapshot) AS former, LATERAL (
        SELECT array_agg(user_id) AS users, array_agg(session_id) AS sessions
        FROM (
            SELECT xid, user_id, session_id FROM session_ends
            WHERE xid = ANY (ARRAY(SELECT pg_snapshot_xip(former)))
            UNION ALL
            SELECT xid, user_id, session_id FROM session_ends
            WHERE xid >= pg_snapshot_xmax(former)
              AND xid < pg_snapshot_xmax(pg_current_snapshot())
            ORDER BY xid LIMIT %s
        ) AS found
    ) AS ends
"""

_REMOVE_SQL = "SELECT remove_session_ends(%s)"


class SessionEnd(NamedTuple):
    """A session that ended. Without a session id, all sessions of the user ended."""

    user_id: UUID
    session_id: UUID | None


class NotListeningError(Exception):
    """The connection works, but would return no ends, or may have missed one."""


class EndReader:
    """Reads the ends of sessions that were committed since the read before."""

    def __init__(self, connection: Connection, within: timedelta) -> None:
        self._connection = connection
        self._read_sql = _READ_SQL.format(is_confirmed=is_confirmed(within))
        self._place = ""
        self._snapshot: str | None = None
        self._has_old_rows = False

    async def read(self) -> Sequence[SessionEnd]:
        """Return the ends since the last read, in the order in which their transactions began.

        Raise `NotListeningError` if an end may be missing, or what psycopg raises. The first read
        returns nothing.
        """
        row = await self._run(self._read_sql, self._snapshot, MAX_NEW_ENDS + 1)
        if row is None:
            raise NotListeningError("the table session_end_log is empty")
        if not row.writes:
            raise NotListeningError("the server does not write")
        if not row.has_triggers:
            raise NotListeningError("a trigger of revision 0005 is missing or switched off")
        if not row.is_confirmed:
            raise NotListeningError("no standby acknowledges the commits of the server")
        if self._snapshot and (row.place != self._place or row.has_gap):
            raise NotListeningError("another server answers, or this one was read too late")
        users, sessions = row.users or (), row.sessions or ()
        if len(users) > MAX_NEW_ENDS or None in users:
            raise NotListeningError("too many sessions ended at once")
        self._place, self._snapshot, self._has_old_rows = row.place, row.snapshot, row.has_old_rows
        return [*map(SessionEnd, users, sessions)]

    async def remove_old_rows(self) -> None:
        """Remove rows that every reader has read long ago, if there may be some."""
        if self._has_old_rows:
            row = await self._run(_REMOVE_SQL, REMOVAL_BATCH)
            self._has_old_rows = row.remove_session_ends == REMOVAL_BATCH

    async def _run(self, statement: str, *values: object) -> Any:
        with self._connection.observed(statement):
            cursor = self._connection.cursor(row_factory=namedtuple_row)
            await cursor.execute(statement.encode(), values, prepare=True, binary=True)
            return await cursor.fetchone()


def listener_connector(
    settings: DatabaseSettings, orphaned: OrphanedStatements, observe: Observe | None = None
) -> Connector:
    """Return a function that opens connections for the listener.

    With `TAMATAR_LISTENER_DATABASE_URL` the connection bypasses a pooler.
    """
    connect = _connector(settings, orphaned, observe)
    url = settings.listener_url
    if url is None:
        return connect
    direct = _connector(settings.model_copy(update={"url": url}), orphaned, observe)

    async def connect_directly() -> Connection:
        connection = await direct()
        try:
            await _require_same_database(connection, await connect())
        except BaseException:
            await connection.close()
            raise
        return connection

    return connect_directly


@contextlib.asynccontextmanager
async def open_reader(connect: Connector, within: timedelta) -> AsyncIterator[EndReader]:
    """Open a connection while the block runs, and yield a reader that has not read yet.

    Standbys must have acknowledged a commit of the server `within` that time.
    """
    connection = await connect()
    try:
        async with asyncio.timeout(CHECK_TIMEOUT):
            with connection.observed(_BEGIN_SQL):
                await connection.execute(_BEGIN_SQL)
        yield EndReader(connection, within)
    finally:
        await connection.close()


def _connector(
    settings: DatabaseSettings, orphaned: OrphanedStatements, observe: Observe | None
) -> Connector:
    return connector(
        settings,
        orphaned,
        application_name=f"{limits.APPLICATION_NAME} listener",
        options=limits.INDEX_PLAN_OPTIONS,
        observe=observe,
        autocommit=True,
    )


async def _require_same_database(connection: Connection, other: Connection) -> None:
    """Raise `NotListeningError` unless both connections lead to one database. Close `other`."""
    try:
        async with asyncio.timeout(CHECK_TIMEOUT):
            found = [
                await (await one.execute(_IDENTITY_SQL)).fetchone() for one in (connection, other)
            ]
    finally:
        await other.close()
    if found[0] != found[1]:
        raise NotListeningError("TAMATAR_LISTENER_DATABASE_URL leads to another database")
