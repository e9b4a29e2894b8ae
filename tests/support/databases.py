"""The PostgreSQL of the tests: one server for all workers, and a database for each."""

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from tamatar_auth.embedded.postgres import EmbeddedPostgres
from tamatar_auth.migrator.migrations import Migrations

TEMPLATE = "template_migrated"
EMPTY = "template0"

REQUIRE_INTEROP = "TAMATAR_REQUIRE_INTEROP"
"""If set, a test that lacks an external tool fails instead of being skipped."""

RUNNING_SERVER = "TESTS_POSTGRES_URL"
"""If set, the URL of a server with the template, for runs that follow each other quickly."""

# No data of the tests has to survive a crash.
SERVER_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "400",
}


class Postgres:
    """A running server, known by the URL of one of its databases."""

    def __init__(self, url: str) -> None:
        self._url = url

    def url(self, database: str = "postgres") -> str:
        """Return the URL of a database."""
        return urlsplit(self._url)._replace(path=f"/{database}").geturl()

    def create(self, database: str, template: str = EMPTY) -> str:
        """Create a database and return its URL."""
        names = sql.Identifier(database), sql.Identifier(template)
        self._administer(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*names))
        return self.url(database)

    def drop(self, database: str) -> None:
        """Drop a database, even if it has connections."""
        name = sql.Identifier(database)
        self._administer(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))

    def _administer(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement)


class TestServer:
    """The server in the process that starts the workers, or in the only process."""

    __test__ = False

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._server: EmbeddedPostgres | None = None

    def url(self) -> str:
        """Return the server's URL; the first call starts it and makes its template."""
        if running := os.environ.get(RUNNING_SERVER):
            return running
        if self._server is None:
            self._folder = Path(tempfile.mkdtemp(prefix="tamatar-tests-"))
            self._server = EmbeddedPostgres(self._folder, settings=SERVER_SETTINGS)
            self._server.start()
            template = Postgres(self._server.url()).create(TEMPLATE)
            Migrations(template).upgrade()
            _count_statements(template)
        return self._server.url()

    def secrets_in_log(self, secrets: Iterable[str]) -> list[str]:
        """Return the secrets that the server's own log holds."""
        if self._folder is None:
            return []
        log = (self._folder / "postgres.log").read_text(errors="replace")
        return [secret for secret in secrets if secret in log]

    def stop(self) -> None:
        """Stop the server if it was started, and remove its folder."""
        if self._server is not None:
            self._server.stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _count_statements(url: str) -> None:
    """Create the extension that counts statements, if the server has it."""
    with psycopg.connect(url) as connection:
        connection.execute(
            "DO $$ BEGIN CREATE EXTENSION pg_stat_statements;"
            " EXCEPTION WHEN OTHERS THEN NULL; END $$"
        )


def forget_environment() -> None:
    """Remove our settings from the environment of the person who tests."""
    for name in tuple(os.environ):
        ours = name.upper().startswith("TAMATAR_") and name != REQUIRE_INTEROP
        if ours or name.upper() in {"DATABASE_URL", "METRICS_ENABLED"}:
            del os.environ[name]
