"""Whether a database is usable, and for what."""

from typing import NamedTuple

import psycopg
from sqlalchemy import exc

from tamatar_auth.errors import Failure, ServerBusy
from tamatar_auth.storage import sqlstates
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.driver.server_parameters import UnsupportedServerError

MAX_REASON = 300
"""Characters of libpq's reason for a connection that could not be opened."""


class Readiness(NamedTuple):
    """What a database can be used for."""

    problem: str | None
    """Why some calls fail, or None if the database is usable."""
    reads: bool = False
    """Whether reads work, such as validations."""
    is_synchronous: bool = False
    """Whether commits wait for standbys."""

    @property
    def is_read_only(self) -> bool:
        """Whether reads work and writes fail."""
        return self.reads and self.problem is not None


async def check_readiness(
    database: Database, head: str, *, expects_tables: bool = False
) -> Readiness:
    """Check the database by one statement, or by two unless the caller expects the tables.

    Raise `ServerBusy` if calls hold all connections of the pool.

    `head` is the revision that this release needs. PostgreSQL logs an error if the expected
    tables do not exist.
    """
    try:
        async with database.read() as db:
            has_tables = expects_tables or await db.diagnostics.has_tables()
            state = await db.diagnostics.database_state() if has_tables else None
    except ServerBusy:
        raise
    except (exc.SQLAlchemyError, OSError, Failure) as error:
        return Readiness(_unavailability(error))
    if state is None or state.revision is None:
        return Readiness("the tables of this release are missing: run `tamatar-auth migrate up`")
    if state.revision < head:
        return Readiness(
            f"the tables are at {state.revision}, not at {head}: run `tamatar-auth migrate up`"
        )
    if state.missing_tables:
        names = ", ".join(state.missing_tables)
        return Readiness(f"the tables {names} are missing: restore them from a backup")
    # Tables of a later release are usable: each migration stays compatible with the release
    # before it, which may restart while the new one is rolled out.
    return Readiness(state.read_only_reason, reads=True, is_synchronous=state.is_synchronous)


def _unavailability(error: Exception) -> str:
    cause = error.orig if isinstance(error, exc.DBAPIError) else error
    if isinstance(cause, UnsupportedServerError):
        return str(cause)
    reason = sqlstates.sqlstate(error)
    if reason is None and isinstance(cause, psycopg.OperationalError):
        # No statement ran. The text of libpq names the host and the role, but no secret.
        reason = " ".join(str(cause).split())[:MAX_REASON]
    return f"the database is not available ({reason or type(error).__name__})"
