"""The PostgreSQL of the tests: one server for all workers, a database for each."""

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
"""Set where a test that lacks a tool from elsewhere shall fail, not skip."""

# Nothing of the tests is meant to outlive a crash.
SERVER_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
}


class Postgres:
    """A server that runs, known by the URL of one of its databases."""

    def __init__(self, url: str) -> None:
        self._url = url

    def url(self, database: str = "postgres") -> str:
        """Give the URL of a database."""
        return urlsplit(self._url)._replace(path=f"/{database}").geturl()

    def create(self, database: str, template: str = EMPTY) -> str:
        """Create a database and give its URL."""
        names = sql.Identifier(database), sql.Identifier(template)
        self._administer(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*names))
        return self.url(database)

    def drop(self, database: str) -> None:
        """Drop a database, whoever is connected to it."""
        name = sql.Identifier(database)
        self._administer(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))

    def _administer(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement)


class TestServer:
    """The server in the process that starts the workers, or in the only one."""

    __test__ = False

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._server: EmbeddedPostgres | None = None

    def url(self) -> str:
        """Give the server's URL; the first time it is started and its template is made."""
        if self._server is None:
            self._folder = Path(tempfile.mkdtemp(prefix="tamatar-tests-"))
            self._server = EmbeddedPostgres(self._folder, settings=SERVER_SETTINGS)
            self._server.start()
            template = Postgres(self._server.url()).create(TEMPLATE)
            Migrations(template).upgrade()
            _count_statements(template)
        return self._server.url()

    def secrets_in_log(self, secrets: Iterable[str]) -> list[str]:
        """Tell which of some secrets stand in the server's own log."""
        if self._folder is None:
            return []
        log = (self._folder / "postgres.log").read_text(errors="replace")
        return [secret for secret in secrets if secret in log]

    def stop(self) -> None:
        """Stop the server if it was started, and remove what it leaves."""
        if self._server is not None:
            self._server.stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _count_statements(url: str) -> None:
    """Create the extension that counts statements, where the server has it."""
    with psycopg.connect(url) as connection:
        connection.execute(
            "DO $$ BEGIN CREATE EXTENSION pg_stat_statements;"
            " EXCEPTION WHEN OTHERS THEN NULL; END $$"
        )


def forget_environment() -> None:
    """Forget the settings of whoever runs the tests."""
    for name in tuple(os.environ):
        ours = name.upper().startswith("TAMATAR_") and name != REQUIRE_INTEROP
        if ours or name.upper() in {"DATABASE_URL", "METRICS_ENABLED"}:
            del os.environ[name]
