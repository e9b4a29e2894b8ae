"""Connections for migrations: their limits, and a lock that admits one migrator at a time.

A migration must connect to PostgreSQL directly. A pooler in transaction mode would lose both the
limits and the lock.
"""

import contextlib
import select
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import psycopg
from sqlalchemy import Engine, NullPool, create_engine

from tamatar_auth.config.database_url import check_database_url, effective_parameters
from tamatar_auth.config.errors import OperatorError
from tamatar_auth.storage.advisory_locks import LOCK_NAMESPACE, AdvisoryLock
from tamatar_auth.storage.driver import server_parameters

LIMITS = {
    # A statement that waits for a lock blocks all statements behind it, so it gives up and is
    # retried. The limit exceeds deadlock_timeout (1 s): PostgreSQL then cancels an autovacuum
    # that holds the lock.
    "lock_timeout": "1200ms",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}

POLL_SECONDS = 0.1
"""Seconds between two attempts to get the lock."""

RELEASE_SECONDS = 5.0
"""Seconds to wait for PostgreSQL to confirm the release of the lock."""

_TRY_LOCK = f"pg_try_advisory_lock({LOCK_NAMESPACE}, {AdvisoryLock.MIGRATION})"
_UNLOCK = f"pg_advisory_unlock({LOCK_NAMESPACE}, {AdvisoryLock.MIGRATION})"
_SERVER = "SELECT pg_backend_pid()"
_FIND_HOLDER = f"""
    SELECT pid FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 2
      AND classid = {LOCK_NAMESPACE} AND objid = {AdvisoryLock.MIGRATION}
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""  # noqa: S608 - constants only


class MigrationError(OperatorError):
    """A migration failed; the message is one sentence with the reason."""


def connect(url: str, *, autocommit: bool = True) -> "psycopg.Connection[tuple[object, ...]]":
    """Connect with the limits of a migration, or raise `MigrationError`."""
    try:
        check_database_url(url)
    except ValueError as error:
        raise MigrationError(f"The URL of the database {error}.") from None
    parameters = effective_parameters(url)
    limits = (f"-c {name}={limit}" for name, limit in LIMITS.items())
    defaults = {"application_name": "tamatar-auth migrations", "connect_timeout": "5"}
    options = [parameters.get("options", ""), server_parameters.PINNED_OPTIONS, *limits]
    try:
        connection = psycopg.connect(
            url,
            options=" ".join(options).strip(),
            client_encoding=server_parameters.CLIENT_ENCODING,
            autocommit=autocommit,
            **{name: value for name, value in defaults.items() if name not in parameters},  # type: ignore[arg-type]
        )
        _prepare(connection)
    except server_parameters.UnsupportedServerError as error:
        reason = str(error)
        raise MigrationError(f"{reason[:1].upper()}{reason[1:]}.") from None
    except psycopg.OperationalError as error:
        reason = str(error).partition("\n")[0]
        raise MigrationError(f"The database cannot be reached: {reason}.") from None
    return connection


def engine(url: str) -> Engine:
    """Return the engine that alembic uses."""
    return create_engine(
        "postgresql+psycopg://",
        creator=lambda: connect(url, autocommit=False),
        poolclass=NullPool,
        hide_parameters=True,
    )


@contextlib.contextmanager
def migration_lock(url: str, report: Callable[[str], None], lock_wait: timedelta) -> Iterator[None]:
    """Hold the lock of migrations during the block, on a connection of its own.

    Raise `MigrationError` if another migrator holds it for longer than `lock_wait`, or if a pooler
    would lose it.
    """
    # Polled: a statement that waits for the lock would hold a snapshot, and CREATE INDEX
    # CONCURRENTLY in the other migrator would wait for that snapshot.
    with connect(url) as connection:
        _refuse_shared_server(connection, url)
        deadline, is_reported = time.monotonic() + lock_wait.total_seconds(), False
        while not _fetch_value(connection, f"SELECT {_TRY_LOCK}"):
            holder = _fetch_value(connection, _FIND_HOLDER)
            holder_label = f"process {holder} of PostgreSQL" if holder else "another process"
            if not is_reported:
                report(f"Another migration is running ({holder_label}): waiting until it ends.")
                is_reported = True
            if time.monotonic() > deadline:
                waited = f"{lock_wait.total_seconds():g} s"
                raise MigrationError(f"Migrations have been locked by {holder_label} for {waited}.")
            time.sleep(POLL_SECONDS)
        try:
            yield
        finally:
            _release(connection)


def _prepare(connection: "psycopg.Connection[tuple[object, ...]]") -> None:
    """Pin the parameters, or raise `UnsupportedServerError`."""
    try:
        server_parameters.raise_if_unsupported(connection.info)
        if repair := server_parameters.find_repair(connection.info):
            connection.execute(repair.encode())
            connection.commit()
    except BaseException:
        connection.close()
        raise


def _refuse_shared_server(connection: "psycopg.Connection[tuple[object, ...]]", url: str) -> None:
    """Raise `MigrationError` if a pooler lends one server to two connections at a time.

    The lock would stay with that server, and no later migration would get it.
    """
    server = _fetch_value(connection, _SERVER)
    if server == connection.info.backend_pid:
        return  # PgBouncer shows its clients a number of its own
    with connect(url) as other:
        if _fetch_value(other, _SERVER) == server:
            raise MigrationError(
                "A pooler in transaction mode is between: set TAMATAR_DATABASE_URL to PostgreSQL"
                " itself for migrations."
            )


def _release(connection: "psycopg.Connection[tuple[object, ...]]") -> None:
    """Release the lock explicitly: PostgreSQL may notice a closed connection much later.

    A server that does not answer in time is ignored, because the migration itself is complete.
    """
    with contextlib.suppress(psycopg.Error):
        connection.pgconn.send_query(f"SELECT {_UNLOCK}".encode())
        connection.pgconn.flush()
        select.select([connection.pgconn.socket], [], [], RELEASE_SECONDS)
    connection.close()


def _fetch_value(connection: "psycopg.Connection[tuple[object, ...]]", query: str) -> object:
    row = connection.execute(query.encode()).fetchone()
    return row[0] if row else None
