"""Opening connections to PostgreSQL, and detecting dead ones."""

from typing import Any

from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr

from tamatar_auth.config.database import DatabaseSettings
from tamatar_auth.config.database_url import effective_parameters, strip_driver
from tamatar_auth.storage.driver import limits, server_parameters
from tamatar_auth.storage.driver.connection import Connection
from tamatar_auth.storage.driver.liveness import SilenceLimits, is_readable
from tamatar_auth.storage.driver.opener import ConnectionOpener, Connector
from tamatar_auth.storage.driver.orphaned_statements import OrphanedStatements

TIMEOUT_GRACE = 1.0
"""Seconds after `statement_timeout` in which PostgreSQL must have ended a statement."""

STANDBY_PARAMETERS = {"target_session_attrs": "standby", "load_balance_hosts": "random"}
"""Parameters of libpq for the URL of the standbys, which may have several hosts."""


def libpq_url(settings: DatabaseSettings) -> str:
    """Return the URL of the database as libpq reads it. Raise `LookupError` if none is set."""
    if settings.url is None:
        raise LookupError("no database is set")
    return strip_driver(settings.url.get_secret_value())


def standby_settings(settings: DatabaseSettings) -> DatabaseSettings | None:
    """Return the settings with the URL of the standbys as `url`, or None if none is set."""
    if settings.standby_url is None:
        return None
    url = strip_driver(settings.standby_url.get_secret_value())
    missing = STANDBY_PARAMETERS.keys() - conninfo_to_dict(url).keys()
    chosen = make_conninfo(url, **{name: STANDBY_PARAMETERS[name] for name in missing})
    return settings.model_copy(update={"url": SecretStr(chosen)})


def connector(
    settings: DatabaseSettings,
    orphaned: OrphanedStatements,
    *,
    application_name: str = limits.APPLICATION_NAME,
    options: str = "",
    cancelled_limit: float | None = None,
    **extra: Any,
) -> Connector:
    """Return a function that opens connections.

    `options` are added to the options of PostgreSQL, `extra` to the arguments of
    `Connection.open`. If a call is cancelled after its statement has waited for
    `cancelled_limit` seconds, the server counts as silent.

    libpq reads the URL itself, so several hosts, target_session_attrs, service files and
    certificates work as its manual says. The URL, its service file and `PG` variables take
    precedence over the settings, but not over the parameters that `server_parameters` pins.
    """
    url = libpq_url(settings)
    arguments = _url_wins(url, _arguments(settings, application_name, options))
    timeout = _statement_timeout(settings, arguments["options"])
    answer_limit = timeout + TIMEOUT_GRACE if timeout else None
    silence = SilenceLimits(answer_limit, cancelled_limit, timeout)

    async def connect() -> Connection:
        now = arguments | orphaned.hosts.arguments(url)
        return await Connection.open(orphaned, url, silence, **now, **extra)

    opener = ConnectionOpener(connect)
    orphaned.on_close(opener.close)
    return opener.open


def is_dead(connection: Connection) -> bool:
    """Return whether the server of an idle connection has closed it or fallen silent.

    A ping would cost every call a round trip. The kernel answers within microseconds: a closed
    connection is readable (the end of the stream), an idle one is not.
    """
    detector = connection.orphaned.failure_detector
    is_lost = connection.closed or detector.suspects(connection.connect_started_at)
    return is_lost or is_readable(connection.fileno())


def _arguments(settings: DatabaseSettings, application_name: str, options: str) -> dict[str, Any]:
    # https://www.postgresql.org/docs/current/libpq-connect.html
    timeouts = {
        "statement_timeout": settings.statement_timeout.total_seconds(),
        "lock_timeout": settings.lock_timeout.total_seconds(),
        "idle_in_transaction_session_timeout": limits.IDLE_IN_TRANSACTION_TIMEOUT,
    }
    return {
        "application_name": application_name,
        "connect_timeout": limits.CONNECT_TIMEOUT,
        # Only these detect a host that vanished after it received a statement.
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 2,
        "tcp_user_timeout": round(limits.TCP_USER_TIMEOUT * 1000),
        "options": " ".join(
            [f"-c {name}={round(seconds * 1000)}" for name, seconds in timeouts.items()] + [options]
        ).strip(),
    }


def _url_wins(url: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that the URL, its service file and the `PG` variables do not set.

    Their `options` are appended to ours, because libpq would replace them by ours. The pinned
    parameters come last, because they win.
    """
    in_url = effective_parameters(url)
    merged = {name: value for name, value in arguments.items() if name not in in_url}
    if "options" in in_url:
        merged["options"] = f"{arguments['options']} {in_url['options']}"
    return {
        **merged,
        "options": f"{merged['options']} {server_parameters.PINNED_OPTIONS}",
        "client_encoding": server_parameters.CLIENT_ENCODING,
    }


def _statement_timeout(settings: DatabaseSettings, options: str) -> float | None:
    """Return the seconds after which PostgreSQL ends a statement, or None if the URL sets them."""
    is_ours = options.count("statement_timeout") == 1
    return settings.statement_timeout.total_seconds() if is_ours else None
