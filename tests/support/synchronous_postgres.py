"""A PostgreSQL whose synchronous standby does not exist."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psycopg

from tamatar_auth.embedded.postgres import EmbeddedPostgres
from tamatar_auth.migrator.migrations import Migrations


@contextlib.contextmanager
def synchronous_postgres(folder: Path) -> Iterator[str]:
    """Run a server with all tables while the block runs, and yield its URL.

    Its commits wait for ever, unless `synchronous_commit` is local or off.
    """
    with EmbeddedPostgres(folder, settings={"fsync": "off"}) as postgres:
        Migrations(postgres.url()).upgrade()
        with psycopg.connect(postgres.url(), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
            connection.execute("SELECT pg_reload_conf()")
        yield postgres.url()
