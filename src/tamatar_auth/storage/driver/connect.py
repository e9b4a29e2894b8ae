"""How connections to PostgreSQL are opened, and how a dead one is told."""

from typing import Any

import psycopg

from tamatar_auth.config.database import DatabaseSettings
from tamatar_auth.config.types import strip_driver
from tamatar_auth.storage.driver.connection import Connection
from tamatar_auth.storage.driver.liveness import SilenceLimits, is_readable
from tamatar_auth.storage.driver.opener import ConnectionOpener, Connector
from tamatar_auth.storage.driver.orphaned_statements import OrphanedStatements

TIMEOUT_GRACE = 1.0
"""Seconds after which what PostgreSQL should have ended itself is not waited for any more."""


def libpq_url(settings: DatabaseSettings) -> str:
    """Give the URL of the database as libpq reads it, or raise `LookupError` when none is set."""
    if settings.url is None:
        raise LookupError("no database is set")
    return strip_driver(settings.url.get_secret_value())


def connector(
    settings: DatabaseSettings,
    orphaned: OrphanedStatements,
    *,
    options: str = "",
    cancelled_limit: float | None = None,
    **extra: Any,
) -> Connector:
    """Return what opens a connection, with more options of PostgreSQL and arguments of psycopg.

    If a call is cancelled after its statement has waited for `cancelled_limit` seconds, the
    server counts as silent.

    libpq reads the URL itself: several hosts, target_session_attrs, service files and
    certificates mean what its manual says, and what the URL says wins.
    """
    url = libpq_url(settings)
    arguments = _url_wins(url, _arguments(settings, options))
    limits = SilenceLimits(_statement_limit(settings, arguments["options"]), cancelled_limit)

    async def connect() -> Connection:
        return await Connection.open(orphaned, url, limits, **arguments, **extra)

    opener = ConnectionOpener(connect)
    orphaned.on_close(opener.close)
    return opener.open


def is_dead(connection: Connection) -> bool:
    """Tell whether the server closed a connection that rests, or has fallen silent.

    A ping would cost every call a round trip. A closed connection can be read from (the end
    of the stream), one that rests cannot: asking the kernel costs microseconds.
    """
    is_lost = connection.closed or connection.orphaned.failure_detector.suspects(connection)
    return is_lost or is_readable(connection.fileno())


def _arguments(settings: DatabaseSettings, options: str) -> dict[str, Any]:
    # https://www.postgresql.org/docs/current/libpq-connect.html
    limits = {
        "statement_timeout": settings.statement_timeout,
        "lock_timeout": settings.lock_timeout,
        "idle_in_transaction_session_timeout": settings.idle_in_transaction_timeout,
    }
    return {
        "application_name": settings.application_name,
        "connect_timeout": round(settings.connect_timeout.total_seconds()),
        # A host that went away after it took a statement is noticed by these alone.
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 2,
        "tcp_user_timeout": round(settings.tcp_user_timeout.total_seconds() * 1000),
        "options": " ".join(
            ["-c timezone=UTC"]
            + [f"-c {name}={round(limit.total_seconds() * 1000)}" for name, limit in limits.items()]
            + [options]
        ).strip(),
    }


def _url_wins(url: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Let what the URL says win, but for `options`, which are added to."""
    in_url = psycopg.conninfo.conninfo_to_dict(url)
    merged = {name: value for name, value in arguments.items() if name not in in_url}
    if "options" in in_url:
        merged["options"] = f"{arguments['options']} {in_url['options']}"
    return merged


def _statement_limit(settings: DatabaseSettings, options: str) -> float | None:
    """Tell after how many seconds PostgreSQL must have answered; None where nobody knows."""
    seconds = settings.statement_timeout.total_seconds()
    is_ours = options.count("statement_timeout") == 1  # the URL says nothing else
    return seconds + TIMEOUT_GRACE if seconds and is_ours else None
