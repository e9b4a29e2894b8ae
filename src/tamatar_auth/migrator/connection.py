"""How migrations reach PostgreSQL: with limits of their own, and one migrator at a time.

The connection goes straight to PostgreSQL: a pooler that shares connections between
transactions would lose both the limits and the lock.
"""

import contextlib
import select
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from urllib.parse import urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Engine, NullPool, create_engine

from tamatar_auth.config.errors import OperatorError
from tamatar_auth.storage.advisory_locks import LOCK_NAMESPACE, AdvisoryLock

LIMITS = {
    # A statement that waits for a lock makes everybody behind it wait too: it gives up and
    # comes again. Longer than deadlock_timeout (1 s): after that, PostgreSQL ends an
    # autovacuum that is in the way.
    "lock_timeout": "1200ms",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}

POLL_SECONDS, RELEASE_SECONDS = 0.1, 5.0

_TRY_LOCK = f"pg_try_advisory_lock({LOCK_NAMESPACE}, {AdvisoryLock.MIGRATION})"
_UNLOCK = f"pg_advisory_unlock({LOCK_NAMESPACE}, {AdvisoryLock.MIGRATION})"
_FIND_HOLDER = f"""
    SELECT pid FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 2
      AND classid = {LOCK_NAMESPACE} AND objid = {AdvisoryLock.MIGRATION}
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""  # noqa: S608 - two constants of ours


class MigrationError(OperatorError):
    """A migration cannot be done; the text is one sentence that says why."""


def connect(url: str, *, autocommit: bool = True) -> "psycopg.Connection[tuple[object, ...]]":
    """Connect with the limits of a migration, or raise `MigrationError`."""
    parameters = _parse_url(url)
    options = [
        parameters.get("options", ""),
        *(f"-c {name}={limit}" for name, limit in LIMITS.items()),
    ]
    defaults = {"application_name": "tamatar-auth migrations", "connect_timeout": "5"}
    try:
        return psycopg.connect(
            url,
            options=" ".join(options).strip(),
            autocommit=autocommit,
            **{name: value for name, value in defaults.items() if name not in parameters},  # type: ignore[arg-type]
        )
    except psycopg.OperationalError as error:
        reason = str(error).partition("\n")[0]
        raise MigrationError(f"The database cannot be reached: {reason}.") from None


def engine(url: str) -> Engine:
    """Give the engine that alembic works with."""
    return create_engine(
        "postgresql+psycopg://",
        creator=lambda: connect(url, autocommit=False),
        poolclass=NullPool,
        hide_parameters=True,
    )


@contextlib.contextmanager
def migration_lock(url: str, report: Callable[[str], None], lock_wait: timedelta) -> Iterator[None]:
    """Keep other migrators out for as long as the block, on a connection of its own.

    Raise `MigrationError` when another one is still at work after the patience.
    """
    # Asked again and again: a statement that waits for the lock would hold a snapshot, and
    # CREATE INDEX CONCURRENTLY of the migrator before us would wait for that one.
    with connect(url) as connection:
        deadline, is_reported = time.monotonic() + lock_wait.total_seconds(), False
        while not _fetch_value(connection, f"SELECT {_TRY_LOCK}"):
            holder = _fetch_value(connection, _FIND_HOLDER)
            holder_label = f"process {holder} of PostgreSQL" if holder else "another process"
            if not is_reported:
                report(f"Another migration is running ({holder_label}): waiting for its end.")
                is_reported = True
            if time.monotonic() > deadline:
                waited = f"{lock_wait.total_seconds():g} s"
                raise MigrationError(
                    f"Migrations are locked by {holder_label}, and were for {waited}."
                )
            time.sleep(POLL_SECONDS)
        try:
            yield
        finally:
            _release(connection)


def _release(connection: "psycopg.Connection[tuple[object, ...]]") -> None:
    """Give the lock back: PostgreSQL may end a connection long after we have closed it.

    Where nothing answers any more, that is not waited for: the work is done.
    """
    with contextlib.suppress(psycopg.Error):
        connection.pgconn.send_query(f"SELECT {_UNLOCK}".encode())
        connection.pgconn.flush()
        select.select([connection.pgconn.socket], [], [], RELEASE_SECONDS)
    connection.close()


def _fetch_value(connection: "psycopg.Connection[tuple[object, ...]]", query: str) -> object:
    row = connection.execute(query.encode()).fetchone()
    return row[0] if row else None


def _parse_url(url: str) -> dict[str, str]:
    """Read the URL as libpq does, or raise `MigrationError`."""
    # libpq's own words would quote what it takes for a host or a number, which is a piece of
    # the password where that was not encoded.
    try:
        parameters = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    except psycopg.Error:
        parameters = {}
    if not parameters or urlsplit(url).netloc.count("@") > 1:
        raise MigrationError(
            "The URL of the database cannot be read: encode special characters of the user and"
            " the password as %XX."
        )
    return parameters
