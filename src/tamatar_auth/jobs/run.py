"""The jobs that commands run on a database, each on its own event loop.

This module imports neither the server nor the migrations, so that jobs start fast.
"""

import contextlib
from collections.abc import AsyncIterator, Callable

import uvloop
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from tamatar_auth.config.errors import OperatorError
from tamatar_auth.config.settings import Settings
from tamatar_auth.errors import Failure
from tamatar_auth.jobs import seed as seed_job
from tamatar_auth.jobs import session_days
from tamatar_auth.jobs import sweep as sweep_job
from tamatar_auth.migrator.revisions import head_revision
from tamatar_auth.observability.logs import configure_logs
from tamatar_auth.security.passwords.hasher import PasswordHasher
from tamatar_auth.storage import sqlstates
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.driver import limits
from tamatar_auth.storage.driver.server_parameters import UnsupportedServerError
from tamatar_auth.storage.engine import create_engine
from tamatar_auth.storage.readiness import check_readiness

Report = Callable[[str], None]


def seed(settings: Settings, report: Report) -> None:
    """Create the first users."""

    async def run() -> None:
        async with _open_database(settings) as database:
            passwords = PasswordHasher.create(settings.passwords)
            try:
                await seed_job.seed(database, passwords, settings, report)
            finally:
                await passwords.close()

    uvloop.run(run())


def sweep(settings: Settings, report: Report, *, dry_run: bool) -> None:
    """Remove rows past their retention."""
    configure_logs(settings)  # purges are audited

    async def run() -> None:
        async with _open_database(settings) as database:
            if not dry_run:
                await session_days.make_days(database, settings)
            await sweep_job.sweep(database, settings.retention, dry_run=dry_run, report=report)

    uvloop.run(run())


@contextlib.asynccontextmanager
async def _open_database(settings: Settings) -> AsyncIterator[Database]:
    """Open a database that is ready for use, or raise `OperatorError`."""
    # The wait for a connection is short for calls, which have a deadline. Jobs have none.
    engine = create_engine(settings.database, pool_wait=limits.CONNECT_TIMEOUT)
    database = Database(engine, idle_limit=settings.sessions.idle_limit or None)
    try:
        await _connect(database)
        if reason := (await check_readiness(database, head_revision())).problem:
            raise OperatorError(
                f"{reason[:1].upper()}{reason[1:]}. Run `tamatar-auth doctor` for details."
            )
        yield database
    except (SQLAlchemyError, Failure) as error:
        failure = error if isinstance(error, Failure) else sqlstates.to_failure(error)
        if failure is None:
            raise
        raise OperatorError(failure.message) from None
    finally:
        await database.close()


async def _connect(database: Database) -> None:
    """Connect, or raise `OperatorError` with the cause."""
    try:
        async with database.read():
            pass
    except DBAPIError as error:
        if isinstance(error.orig, UnsupportedServerError) or sqlstates.sqlstate(error):
            return  # the check of readiness names the cause
        reason = str(error.orig).partition("\n")[0]
        raise OperatorError(f"The database cannot be reached: {reason}.") from None
