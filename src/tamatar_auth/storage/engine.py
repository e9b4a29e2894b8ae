"""The SQLAlchemy engine: one pool of connections for this process."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import event, exc
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry

from tamatar_auth.config.database import DatabaseSettings
from tamatar_auth.storage import sqlstates
from tamatar_auth.storage.driver.connect import connector, is_dead
from tamatar_auth.storage.driver.orphaned_statements import OrphanedStatements


def create_engine(
    settings: DatabaseSettings,
    orphaned: OrphanedStatements | None = None,
    *,
    pool_size: int | None = None,
    cancelled_limit: float | None = None,
) -> AsyncEngine:
    """Create the one pool of this process. It connects when the first scope is opened.

    `cancelled_limit` is what `connector` says.
    """
    engine = create_async_engine(
        "postgresql+psycopg://",
        async_creator=connector(
            settings, orphaned or OrphanedStatements(), cancelled_limit=cancelled_limit
        ),
        poolclass=AsyncAdaptedQueuePool,
        pool_size=pool_size or settings.pool_size,
        max_overflow=0,
        pool_timeout=settings.pool_wait.total_seconds(),
        pool_recycle=round(settings.pool_recycle.total_seconds()),
        pool_use_lifo=True,
        # Most scopes commit each statement: only transactions set another level, and reset it.
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        hide_parameters=True,
    )
    event.listen(engine.sync_engine, "checkout", _replace_if_dead)
    event.listen(engine.sync_engine, "handle_error", _disconnect_if_read_only)
    return engine


def _replace_if_dead(
    connection: Any,
    _record: ConnectionPoolEntry,
    _proxy: object,
) -> None:
    # The pool then opens a new connection in its place.
    if is_dead(connection.driver_connection):
        raise exc.DisconnectionError("closed by the server")


def _disconnect_if_read_only(failure: ExceptionContext) -> None:
    # It writes no more, so its connections lead to the wrong server: with several hosts in the
    # URL the next ones lead to another.
    if sqlstates.sqlstate(failure.original_exception) == sqlstates.READ_ONLY:
        failure.is_disconnect = True  # for the whole pool, unless it is said otherwise


def on_read_only(engine: AsyncEngine, callback: Callable[[], None]) -> None:
    """Tell when a server has refused to write."""

    def check(failure: ExceptionContext) -> None:
        if sqlstates.sqlstate(failure.original_exception) == sqlstates.READ_ONLY:
            callback()

    event.listen(engine.sync_engine, "handle_error", check)
