"""The PostgreSQL of the tests: one server for all workers, a database for each."""

import os
import shutil
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from tamatar_auth.maintenance.embedded_postgres import EmbeddedPostgres
from tamatar_auth.maintenance.migrating import Migrations

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


_SCHEMA = """
    SELECT c.relname, a.attname,
           format_type(a.atttypid, a.atttypmod) || coalesce(' ' || l.collname, '')
           || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END
           || coalesce(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), '')
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    LEFT JOIN pg_collation l ON l.oid = a.attcollation AND l.collname <> 'default'
    WHERE c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
      AND c.relnamespace = 'public'::regnamespace
    UNION ALL
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n'
    UNION ALL
    SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
"""

_PROGRAMS = """
    SELECT tgrelid::regclass::text, tgname, pg_get_triggerdef(oid)
    FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL
    SELECT '', proname, pg_get_functiondef(oid)
    FROM pg_proc WHERE pronamespace = 'public'::regnamespace
"""


def schema(url: str, *, programs: bool = True) -> set[tuple[str, str, str]]:
    """Tell what a database consists of, as PostgreSQL sees it: table, name and definition.

    Without `programs`, triggers and functions are left out.
    """
    query = f"{_SCHEMA} UNION ALL {_PROGRAMS}" if programs else _SCHEMA
    with psycopg.connect(url) as connection:
        rows = connection.execute(query.encode()).fetchall()
    return {(table, name, text) for table, name, text in rows if table != "alembic_version"}
