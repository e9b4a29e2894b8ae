"""Whether a database is usable: it answers, and has the tables of this release."""

from sqlalchemy.exc import SQLAlchemyError

from tamatar_auth.errors.storage import StorageUnavailable
from tamatar_auth.storage import sqlstates
from tamatar_auth.storage.database import Database


async def readiness_problem(database: Database, head: str) -> str | None:
    """Return why a database is not usable, or None if it is."""
    try:
        async with database.read() as db:
            revision = await db.diagnostics.schema_revision()
    except (SQLAlchemyError, OSError, StorageUnavailable) as error:
        state = sqlstates.sqlstate(error)
        return f"the database is not available ({state or type(error).__name__})"
    return _schema_problem(revision, head)


def _schema_problem(revision: str | None, head: str) -> str | None:
    if revision is None:
        return "the database has no tables yet: run `tamatar-auth migrate up`"
    if revision < head:
        return f"the tables are at {revision}, not at {head}: run `tamatar-auth migrate up`"
    # Tables of a later release are usable: each migration stays compatible with the release
    # before it, which may restart while the new one is rolled out.
    return None
