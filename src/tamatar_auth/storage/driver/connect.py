"""How connections to PostgreSQL are opened, and how a dead one is told."""

from typing import Any

import psycopg

from tamatar_auth.config.settings import Settings
from tamatar_auth.config.types import without_driver
from tamatar_auth.storage.driver.connection import Abandoned, Connection
from tamatar_auth.storage.driver.liveness import Patience, has_heard
from tamatar_auth.storage.driver.opener import Connect, Openings

LATE = 1.0
"""Seconds after which what PostgreSQL should have ended itself is not waited for any more."""


def libpq_url(settings: Settings) -> str:
    """Give the URL of the database as libpq reads it, or raise `LookupError` when none is set."""
    if settings.database_url is None:
        raise LookupError("no database is set")
    return without_driver(settings.database_url.get_secret_value())


def connecting(
    settings: Settings,
    abandoned: Abandoned,
    *,
    options: str = "",
    left: float | None = None,
    **named: Any,
) -> Connect:
    """Return what opens a connection, with more options of PostgreSQL and arguments of psycopg.

    Where a statement waits for nothing, a server is silent that has not answered it after `left`
    seconds when nobody waits any more.

    libpq reads the URL itself: several hosts, target_session_attrs, service files and
    certificates mean what its manual says, and what the URL says wins.
    """
    url = libpq_url(settings)
    arguments = _unless_in(url, _arguments(settings, options))
    patience = Patience(_longest(settings, arguments["options"]), left)

    async def connect() -> Connection:
        return await Connection.open(abandoned, url, patience, **arguments, **named)

    openings = Openings(connect)
    abandoned.keep(openings.close)
    return openings.one


def is_dead(connection: Connection) -> bool:
    """Tell whether the server closed a connection that rests, or has fallen silent.

    A ping would cost every call a round trip. A closed connection can be read from (the end
    of the stream), one that rests cannot: asking the kernel costs microseconds.
    """
    is_lost = connection.closed or connection.abandoned.silence.is_around(connection)
    return is_lost or has_heard(connection.fileno())


def _arguments(settings: Settings, options: str) -> dict[str, Any]:
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


def _unless_in(url: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Let what the URL says win, but for `options`, which are added to."""
    said = psycopg.conninfo.conninfo_to_dict(url)
    kept = {name: value for name, value in arguments.items() if name not in said}
    if "options" in said:
        kept["options"] = f"{arguments['options']} {said['options']}"
    return kept


def _longest(settings: Settings, options: str) -> float | None:
    """Tell after how many seconds PostgreSQL must have answered; None where nobody knows."""
    seconds = settings.statement_timeout.total_seconds()
    is_ours = options.count("statement_timeout") == 1  # the URL says nothing else
    return seconds + LATE if seconds and is_ours else None
