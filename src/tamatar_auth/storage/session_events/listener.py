"""The connection that receives notifications of ended sessions, and its checks."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, LiteralString

from psycopg import AsyncCursor

from tamatar_auth.config.database import DatabaseSettings
from tamatar_auth.storage.advisory_locks import LISTENER_LOCKS, LISTENER_NAMESPACE
from tamatar_auth.storage.driver import limits
from tamatar_auth.storage.driver.connect import connector
from tamatar_auth.storage.driver.connection import Connection, Observe
from tamatar_auth.storage.driver.opener import Connector
from tamatar_auth.storage.driver.orphaned_statements import OrphanedStatements

CHANNEL = "tamatar_session_ends"

CHECK_TIMEOUT = 2.0
"""Seconds in which a connection must answer a check."""

_IDENTITY_SQL = "SELECT pg_postmaster_start_time(), current_database()"

_SHARED_LOCKS_SQL = (
    "SELECT pg_advisory_lock_shared(%s, number) FROM generate_series(0, %s) AS number"
)

_VERIFY_SQL = """
    SELECT current_setting('transaction_read_only') = 'off', count(*) = 4, pg_backend_pid()
    FROM pg_trigger
    WHERE tgrelid IN (to_regclass('sessions'), to_regclass('users')) AND tgenabled IN ('O', 'A')
      AND tgname IN ('sessions_tell_end', 'sessions_tell_deletion', 'sessions_tell_truncation',
                     'users_tell_end')
"""


class NotListeningError(Exception):
    """The connection works, but would receive no notifications."""


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
async def listen(connect: Connector) -> AsyncIterator[Connection]:
    """Listen on a new connection while the block runs. Raise as `verify_listener` does."""
    connection = await connect()
    try:
        async with asyncio.timeout(CHECK_TIMEOUT):
            await _run(connection, f"LISTEN {CHANNEL}")
            # A transaction that found no lock taken, and sent nothing, ends before this returns.
            await _run(connection, _SHARED_LOCKS_SQL, LISTENER_NAMESPACE, LISTENER_LOCKS - 1)
        await verify_listener(connection)
        yield connection
    finally:
        await connection.close()


def _connector(
    settings: DatabaseSettings, orphaned: OrphanedStatements, observe: Observe | None
) -> Connector:
    return connector(
        settings,
        orphaned,
        application_name=f"{limits.APPLICATION_NAME} listener",
        observe=observe,
        autocommit=True,
        prepare_threshold=None,
    )


async def _run(connection: Connection, statement: LiteralString, *values: int) -> AsyncCursor[Any]:
    with connection.observed(statement):
        return await connection.execute(statement, values or None)


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


async def verify_listener(connection: Connection) -> None:
    """Raise unless the connection receives notifications.

    Raise `NotListeningError`, `TimeoutError`, or what psycopg raises.
    """
    async with asyncio.timeout(CHECK_TIMEOUT):
        found = await _run(connection, _VERIFY_SQL)
        row = await found.fetchone()
    writes, has_triggers, process = row or (False, False, 0)
    if not writes:
        raise NotListeningError("the server does not write")
    if not has_triggers:
        raise NotListeningError("a trigger of revision 0005 is missing or switched off")
    if process != connection.info.backend_pid:
        # A pooler sends each statement to any of its servers, and forwards no notifications.
        raise NotListeningError("a pooler is between: set TAMATAR_LISTENER_DATABASE_URL")
