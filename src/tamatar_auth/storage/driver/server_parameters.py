"""The requirements of a connection: pinned parameters, a version and an encoding.

A database, a role, the URL and variables of libpq such as PGDATESTYLE may set other values, which
psycopg and the statements do not understand.
"""

import psycopg

PINNED = {
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "standard_conforming_strings": "on",
    # A commit whose wait for a standby was cancelled is recognised by its warning.
    "client_min_messages": "notice",
}

PINNED_OPTIONS = " ".join(f"-c {name}={value}" for name, value in PINNED.items())
"""The pinned parameters for libpq's `options`."""

CLIENT_ENCODING = "UTF8"

MIN_SERVER_VERSION = 15


class UnsupportedServerError(psycopg.OperationalError):
    """The service cannot use this server or this database. The text says why."""


def find_repair(info: psycopg.ConnectionInfo) -> str:
    """Return SQL that sets the pinned parameters which the server reports with other values.

    Variables of libpq win over `options`, and some poolers drop `options`.
    """
    reported = {name: info.parameter_status(name) or value for name, value in PINNED.items()}
    return "; ".join(
        f"SET {name} = '{PINNED[name]}'"
        for name, value in reported.items()
        if not value.startswith(PINNED[name])
    )


def raise_if_unsupported(info: psycopg.ConnectionInfo) -> None:
    """Raise `UnsupportedServerError` for a server that is too old, or an encoding but UTF-8."""
    version = info.server_version // 10000
    if version < MIN_SERVER_VERSION:
        raise UnsupportedServerError(
            f"PostgreSQL {version} is too old: {MIN_SERVER_VERSION} or newer is needed"
        )
    encoding = info.parameter_status("server_encoding") or CLIENT_ENCODING
    if encoding != CLIENT_ENCODING:
        raise UnsupportedServerError(
            f"the database has the encoding {encoding}: create one with ENCODING 'UTF8'"
        )
