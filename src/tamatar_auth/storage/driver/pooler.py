"""Detecting a pooler that loses prepared statements.

PgBouncer in transaction mode sends each transaction to any of its servers. It has prepared a
statement of a client on that server too only if it tracks prepared statements.
"""

import asyncio
import contextlib

import psycopg

from tamatar_auth.storage.driver.connection import Connection
from tamatar_auth.storage.driver.opener import Connector

LOSES_STATEMENTS = (
    "a pooler in transaction mode loses prepared statements: use PgBouncer 1.24 or newer with"
    " max_prepared_statements=200, or pool_mode=session"
)

PROBE_TIMEOUT = 1.0
"""Seconds for the whole detection. In session mode a connection may wait for a free server."""

SAMPLES = 5
"""How often the servers of two connections are compared. A pooler that nothing else uses lends
both the same server each time."""

PREPARED_NAME = "_pg3_"
"""The beginning of psycopg's names. A pooler that tracks statements replaces the names."""

PROBE_ERRORS = (
    psycopg.errors.DuplicatePreparedStatement,  # another client has used the name on this server
    psycopg.errors.ProtocolViolation,  # PgBouncer in statement mode refuses transactions
)


async def find_pooler_problem(connect: Connector) -> str | None:
    """Return why the service cannot work through a pooler, or None.

    None is also returned if no connection can be opened. The connections must be autocommitting.
    """
    with contextlib.suppress(psycopg.Error, OSError, TimeoutError):
        async with asyncio.timeout(PROBE_TIMEOUT), contextlib.AsyncExitStack() as opened:
            one = await connect()
            opened.push_async_callback(one.close)
            if await _server(one) == one.info.backend_pid:
                return None  # PgBouncer shows its clients a number of its own
            other = await connect()
            opened.push_async_callback(other.close)
            if await _share_servers(one, other) and await _is_untracked(one):
                return LOSES_STATEMENTS
    return None


async def _server(connection: Connection) -> int:
    row = await (await connection.execute("SELECT pg_backend_pid()", prepare=False)).fetchone()
    return int(row[0]) if row else 0


async def _share_servers(one: Connection, other: Connection) -> bool:
    servers: dict[Connection, set[int]] = {one: set(), other: set()}
    for _ in range(SAMPLES):
        for connection, seen in servers.items():
            seen.add(await _server(connection))
    return len(servers[one]) > 1 or bool(servers[one] & servers[other])


async def _is_untracked(connection: Connection) -> bool:
    try:
        async with connection.transaction():
            await connection.execute("SELECT 'a statement to prepare'", prepare=True)
            found = await connection.execute(
                "SELECT count(*) FROM pg_prepared_statements WHERE starts_with(name, %s)",
                [PREPARED_NAME],
                prepare=False,
            )
            row = await found.fetchone()
            await connection.execute("DEALLOCATE ALL", prepare=False)
    except PROBE_ERRORS:
        return True
    return bool(row and row[0])
