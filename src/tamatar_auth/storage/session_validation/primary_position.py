"""The position of the primary: what a standby must have replayed before it is read."""

from datetime import timedelta
from typing import NamedTuple

from sqlalchemy import TextClause, text

from tamatar_auth.storage.acknowledgement import is_confirmed
from tamatar_auth.storage.driver.connection import Connection
from tamatar_auth.storage.repositories.primary_terms import TERM
from tamatar_auth.storage.session_validation.connections import PreparedStatement

# A transaction is visible before its WAL is flushed if synchronous_commit is off, and after it
# otherwise. The position of insertion includes records of transactions that have not ended, which
# standbys may get much later.
_POSITION_SQL = f"""
    SELECT CASE WHEN pg_is_in_recovery() THEN NULL
                WHEN current_setting('synchronous_commit') = 'off'
                THEN CAST(pg_current_wal_insert_lsn() AS text)
                ELSE CAST(pg_current_wal_flush_lsn() AS text) END,
           CASE WHEN NOT pg_is_in_recovery() THEN ({TERM}) END,
           CAST(now() AS text),
           {{is_confirmed}}
"""


def primary_position(within: timedelta) -> TextClause:
    """Return the statement; standbys must have acknowledged a commit `within` that time."""
    found = text(_POSITION_SQL.format(is_confirmed=is_confirmed(within)))
    return found.execution_options(summary="SELECT primary_terms")


class PrimaryPosition(NamedTuple):
    """The commits of a primary up to a moment, as texts of PostgreSQL."""

    lsn: str | None
    """The end of the WAL, or None if the server is a standby itself."""
    term: str | None
    """The id of the primary's term, or None if it has none yet."""
    now: str
    """The primary's clock, which decides validity."""
    is_confirmed: bool
    """Whether the server still was the primary a moment ago."""


async def read_position(statement: PreparedStatement, connection: Connection) -> PrimaryPosition:
    """Return the position of a primary by the statement of `primary_position`."""
    (row,) = await statement.rows(connection)
    return PrimaryPosition._make(row)
