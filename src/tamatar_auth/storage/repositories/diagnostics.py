"""What PostgreSQL tells of itself."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from tamatar_auth.errors.storage import QueryStatisticsMissing


class ConnectionCounts(NamedTuple):
    """Connections to the current database, of every client."""

    total: int
    active: int
    idle: int


class QueryStats(NamedTuple):
    """What one kind of statement cost; durations are in seconds."""

    query: str
    calls: int
    total_seconds: float
    mean_seconds: float
    rows: int


_connections = text("""
    SELECT count(*),
           count(*) FILTER (WHERE state = 'active'),
           count(*) FILTER (WHERE state = 'idle')
    FROM pg_stat_activity
    WHERE datname = current_database()
""")

# The view exists where the extension was created; it can be read only where the library
# was loaded when the server started, and then its settings exist.
_statistics_exist = text("""
    SELECT to_regclass('pg_stat_statements') IS NOT NULL
       AND current_setting('pg_stat_statements.max', true) IS NOT NULL
""")

_slowest = text(r"""
    SELECT left(query, 2000), calls, total_exec_time / 1000, mean_exec_time / 1000, rows
    FROM pg_stat_statements
    WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
      -- Of other statements PostgreSQL keeps the values, such as a role's password.
      AND query ~* '^\s*(/\*.*?\*/\s*)*(select|insert|update|delete|merge|with)\y'
    ORDER BY total_exec_time DESC
    LIMIT :limit
""")


class DiagnosticsRepository:
    """Reads PostgreSQL's own views over one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def connections(self) -> ConnectionCounts:
        """Count the connections to the current database."""
        return ConnectionCounts._make((await self._connection.execute(_connections)).one())

    async def server_version(self) -> str:
        """Tell the version of the server, such as `18.1`."""
        statement = text("SELECT split_part(current_setting('server_version'), ' ', 1)")
        return str((await self._connection.execute(statement)).scalar_one())

    async def schema_revision(self) -> str | None:
        """Tell the revision of the tables; None before the first migration."""
        exists = text("SELECT to_regclass('alembic_version') IS NOT NULL")
        if not (await self._connection.execute(exists)).scalar_one():
            return None
        revision = text("SELECT version_num FROM alembic_version")
        return (await self._connection.execute(revision)).scalar_one_or_none()

    async def slowest_queries(self, *, limit: int) -> Sequence[QueryStats]:
        """Return the statements with the most time in all, or raise `QueryStatisticsMissing`."""
        if not (await self._connection.execute(_statistics_exist)).scalar_one():
            raise QueryStatisticsMissing
        found = await self._connection.execute(_slowest, {"limit": limit})
        return [QueryStats._make(row) for row in found]
