"""PostgreSQL's own figures: connections, version, schema revision, slowest queries."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from tamatar_auth.errors.storage import QueryStatisticsMissing
from tamatar_auth.storage import factor_tables  # noqa: F401 - tables of the same metadata
from tamatar_auth.storage.acknowledgement import IS_SYNCHRONOUS
from tamatar_auth.storage.repositories import Repository
from tamatar_auth.storage.sqlstates import UNDEFINED_TABLE, sqlstate
from tamatar_auth.storage.tables import VERSION_TABLE, metadata


class ConnectionCounts(NamedTuple):
    """Connections to the current database, of every client."""

    total: int
    active: int
    idle: int
    hidden: int
    """Connections of other roles, whose state needs the role `pg_monitor`."""


class DatabaseState(NamedTuple):
    """The revision of the tables, the missing ones, and why the server rejects writes, if it does.

    The revision is None before the first migration. Commits of a synchronous server wait for
    standbys.
    """

    revision: str | None
    missing_tables: Sequence[str]
    read_only_reason: str | None
    is_synchronous: bool


class QueryStats(NamedTuple):
    """The cost of one kind of statement; durations are in seconds."""

    query: str
    calls: int
    total_seconds: float
    mean_seconds: float
    rows: int


READ_ONLY_REASON = """
    CASE WHEN pg_is_in_recovery()
         THEN 'the server is a standby: set target_session_attrs=read-write in the URL'
         WHEN current_setting('transaction_read_only') = 'on'
         THEN 'the database is read-only: set default_transaction_read_only to off'
    END"""
"""An SQL expression: why the server rejects writes, or null if it accepts them."""

HEALTH_CHECK_MARK = "/* health check */"
"""The comment by which the list of slowest queries omits the check of each second. It is inside of
the statement, because PostgreSQL 18 stores no comment before one."""

_connections = text("""
    SELECT count(*),
           count(*) FILTER (WHERE state = 'active'),
           count(*) FILTER (WHERE state = 'idle'),
           count(*) FILTER (WHERE backend_type IS NULL)
    FROM pg_stat_activity
    WHERE datname = current_database()
""")

# The view exists if the extension was created. It can be read if the server loaded the library
# when it started, and then the library's settings exist.
_statistics_exist = text("""
    SELECT to_regclass('pg_stat_statements') IS NOT NULL
       AND current_setting('pg_stat_statements.max', true) IS NOT NULL
""")

_slowest = text(r"""
    SELECT left(query, 2000), calls, total_exec_time / 1000, mean_exec_time / 1000, rows
    FROM pg_stat_statements
    WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND query NOT LIKE '%/* health check */%'
      -- Other statements are stored with their values, such as a role's password.
      AND query ~* '^\s*(/\*.*?\*/\s*)*(select|insert|update|delete|merge|with)\y'
    ORDER BY total_exec_time DESC
    LIMIT :limit
""")
_version = text("SELECT split_part(current_setting('server_version'), ' ', 1)")
_has_tables = text(f"SELECT to_regclass('{VERSION_TABLE}') IS NOT NULL")
_revision = text(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608 - a constant
_state = text(f"""
    SELECT {HEALTH_CHECK_MARK}
           (SELECT version_num FROM {VERSION_TABLE}),
           ARRAY(SELECT name FROM unnest(CAST(:names AS text[])) AS name
                 WHERE to_regclass(name) IS NULL),
           {READ_ONLY_REASON},
           {IS_SYNCHRONOUS}
""").bindparams(names=list(metadata.tables))  # noqa: S608 - constants only


class DiagnosticsRepository(Repository):
    """Reads PostgreSQL's own views over one connection."""

    async def connections(self) -> ConnectionCounts:
        """Count the connections to the current database."""
        return ConnectionCounts._make((await self._connection.execute(_connections)).one())

    async def server_version(self) -> str:
        """Return the version of the server, such as `18.1`."""
        return str((await self._connection.execute(_version)).scalar_one())

    async def schema_revision(self) -> str | None:
        """Return the revision of the tables, or None before the first migration."""
        if not await self.has_tables():
            return None
        return (await self._connection.execute(_revision)).scalar_one_or_none()

    async def has_tables(self) -> bool:
        """Return whether a migration has run. PostgreSQL logs no error if none has."""
        return bool((await self._connection.execute(_has_tables)).scalar_one())

    async def database_state(self) -> DatabaseState | None:
        """Return the state of the tables and whether the server writes, or None without tables."""
        try:
            return DatabaseState._make((await self._connection.execute(_state)).one())
        except ProgrammingError as error:
            if sqlstate(error) != UNDEFINED_TABLE:
                raise
            return None

    async def slowest_queries(self, *, limit: int) -> Sequence[QueryStats]:
        """Return the queries with the longest total time, or raise `QueryStatisticsMissing`."""
        if not (await self._connection.execute(_statistics_exist)).scalar_one():
            raise QueryStatisticsMissing
        found = await self._connection.execute(_slowest, {"limit": limit})
        return [QueryStats._make(row) for row in found]
