"""The options, the port and the database of an embedded server."""

import secrets
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

import psycopg
from psycopg import sql

from tamatar_auth.embedded.installation import Installation

EXTENSION = "pg_stat_statements"

PORTS = range(15_000, 30_000)
"""Below the ports of outgoing connections: a client that reconnects to a stopped server could
otherwise get the server's port as its own, and connect to itself."""

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "64MB",
    "max_connections": "100",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Error messages and failed statements contain addresses and secrets.
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_parameter_max_length_on_error": "0",
    "log_error_verbosity": "terse",
    "log_statement": "none",
    "log_checkpoints": "off",
}


def server_options(
    installation: Installation, data: Path, settings: Mapping[str, str]
) -> list[str]:
    """Return the command-line options of a server."""
    preloads = {}
    if installation.has_library(EXTENSION):
        preloads["shared_preload_libraries"] = EXTENSION
        # Utility statements keep their values, such as the password of a role.
        preloads["pg_stat_statements.track_utility"] = "off"
    options = ["-D", str(data)]
    for name, value in {**SETTINGS, **preloads, **settings}.items():
        options += ["-c", f"{name}={value}"]
    return options


def free_port() -> int:
    """Return a random port on which no process listens."""
    while not is_free(port := secrets.choice(PORTS)):
        pass
    return port


def is_free(port: int) -> bool:
    """Return whether a server could listen on a port of 127.0.0.1."""
    with socket.socket() as probe:
        # PostgreSQL sets this too: closed connections in TIME_WAIT do not occupy the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def create_database(url: Callable[[str], str], name: str) -> None:
    """Create the database and its extension if they are missing."""
    with _connect(url("postgres")) as connection:
        existing = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name])
        if existing.fetchone() is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    with _connect(url(name)) as connection:
        missing = connection.execute(
            "SELECT 1 FROM pg_available_extensions WHERE installed_version IS NULL AND name"
            " = ANY (string_to_array(current_setting('shared_preload_libraries'), ','))"
            " AND name = %s",
            [EXTENSION],
        )
        if missing.fetchone():
            connection.execute(sql.SQL("CREATE EXTENSION {}").format(sql.Identifier(EXTENSION)))


def _connect(url: str) -> psycopg.Connection:
    return psycopg.connect(
        url, hostaddr="127.0.0.1", sslmode="disable", connect_timeout=10, autocommit=True
    )
