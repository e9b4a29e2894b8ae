"""A connection on which PostgreSQL tells of the ends of sessions, and whether it still does."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from tamatar_auth.config.settings import Settings
from tamatar_auth.storage.advisory_locks import LISTENER_LOCKS, LISTENER_NAMESPACE
from tamatar_auth.storage.driver.connect import connecting
from tamatar_auth.storage.driver.connection import Abandoned, Connection
from tamatar_auth.storage.driver.opener import Connect

CHANNEL = "tamatar_session_ends"

PATIENCE = 2.0
"""Seconds after which a connection that was looked at, and has not answered, is lost."""

_WHERE = "SELECT pg_postmaster_start_time(), current_database()"

_SHARE = "SELECT pg_advisory_lock_shared(%s, number) FROM generate_series(0, %s) AS number"

_LOOK = """
    SELECT current_setting('transaction_read_only') = 'off', count(*) = 4, pg_backend_pid()
    FROM pg_trigger
    WHERE tgrelid IN (to_regclass('sessions'), to_regclass('users')) AND tgenabled IN ('O', 'A')
      AND tgname IN ('sessions_tell_end', 'sessions_tell_deletion', 'sessions_tell_truncation',
                     'users_tell_end')
"""


class NothingToldError(Exception):
    """The connection is good, and yet no end would be heard on it."""


def listener(settings: Settings, abandoned: Abandoned) -> Connect:
    """Return what opens a connection for the listener, which goes past a pooler if told so."""
    named = {"application_name": f"{settings.application_name[:54]} listener"}
    mine = settings.model_copy(update=named)
    connect = _connecting(mine, abandoned)
    url = settings.listener_database_url
    if url is None:
        return connect
    past_poolers = _connecting(mine.model_copy(update={"database_url": url}), abandoned)

    async def connect_past_poolers() -> Connection:
        connection = await past_poolers()
        try:
            await _compare(connection, await connect())
        except BaseException:
            await connection.close()
            raise
        return connection

    return connect_past_poolers


@contextlib.asynccontextmanager
async def listening(connect: Connect) -> AsyncIterator[Connection]:
    """Listen on a new connection for as long as the block. Raise as `look` does."""
    connection = await connect()
    try:
        async with asyncio.timeout(PATIENCE):
            await connection.execute(f"LISTEN {CHANNEL}")
            # Who found none of them taken, and told nobody, is over before the last is got.
            await connection.execute(_SHARE, [LISTENER_NAMESPACE, LISTENER_LOCKS - 1])
        await look(connection)
        yield connection
    finally:
        await connection.close()


def _connecting(settings: Settings, abandoned: Abandoned) -> Connect:
    return connecting(settings, abandoned, autocommit=True, prepare_threshold=None)


async def _compare(connection: Connection, other: Connection) -> None:
    """Raise `NothingToldError` unless two connections lead to one database; close the other."""
    try:
        async with asyncio.timeout(PATIENCE):
            found = [await (await one.execute(_WHERE)).fetchone() for one in (connection, other)]
    finally:
        await other.close()
    if found[0] != found[1]:
        raise NothingToldError("TAMATAR_LISTENER_DATABASE_URL leads to another database")


async def look(connection: Connection) -> None:
    """Raise `NothingToldError`, `TimeoutError` or what psycopg raises where ends are not heard."""
    async with asyncio.timeout(PATIENCE):
        found = await connection.execute(_LOOK)
        row = await found.fetchone()
    writes, has_triggers, process = row or (False, False, 0)
    if not writes:
        raise NothingToldError("the server does not write")
    if not has_triggers:
        raise NothingToldError("a trigger of revision 0005 is missing or switched off")
    if process != connection.info.backend_pid:
        # It gives each statement to the server it likes, and the ends to nobody.
        raise NothingToldError("a pooler is between: set TAMATAR_LISTENER_DATABASE_URL")
