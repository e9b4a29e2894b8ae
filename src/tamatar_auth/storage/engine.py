"""The SQLAlchemy engine: one pool of connections for this process."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import event, exc
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry

from tamatar_auth.config.database import DatabaseSettings
from tamatar_auth.storage import sqlstates
from tamatar_auth.storage.driver import limits
from tamatar_auth.storage.driver.connect import connector, is_dead
from tamatar_auth.storage.driver.orphaned_statements import OrphanedStatements


def create_engine(
    settings: DatabaseSettings,
    orphaned: OrphanedStatements | None = None,
    *,
    pool_size: int | None = None,
    pool_wait: float | None = None,
    cancelled_limit: float | None = None,
) -> AsyncEngine:
    """Create an engine with its pool. It connects when the first scope is opened.

    `connector` explains `cancelled_limit`.
    """
    engine = create_async_engine(
        "postgresql+psycopg://",
        async_creator=connector(
            settings, orphaned or OrphanedStatements(), cancelled_limit=cancelled_limit
        ),
        poolclass=AsyncAdaptedQueuePool,
        pool_size=pool_size or settings.pool_size,
        max_overflow=0,
        pool_timeout=limits.POOL_WAIT if pool_wait is None else pool_wait,
        pool_recycle=limits.MAX_CONNECTION_AGE,
        pool_use_lifo=True,
        # Most scopes commit each statement: only transactions set another level, and reset it.
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        hide_parameters=True,
    )
    event.listen(engine.sync_engine, "checkout", _replace_if_dead)
    event.listen(engine.sync_engine, "handle_error", _disconnect_if_read_only)
    return engine


def _replace_if_dead(connection: Any, _record: ConnectionPoolEntry, _proxy: object) -> None:
    # The pool then opens another connection.
    if is_dead(connection.driver_connection):
        raise exc.DisconnectionError("closed by the server")


def _disconnect_if_read_only(failure: ExceptionContext) -> None:
    # The server has become read-only. With several hosts in the URL, new connections lead to a
    # server that writes.
    if sqlstates.sqlstate(failure.original_exception) == sqlstates.READ_ONLY:
        failure.is_disconnect = True  # SQLAlchemy then invalidates the whole pool


def on_read_only(engine: AsyncEngine, callback: Callable[[], None]) -> None:
    """Call `callback` whenever a server refuses to write."""

    def check(failure: ExceptionContext) -> None:
        if sqlstates.sqlstate(failure.original_exception) == sqlstates.READ_ONLY:
            callback()

    event.listen(engine.sync_engine, "handle_error", check)
