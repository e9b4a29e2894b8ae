"""Migrations: apply or undo revisions, report the current one, compare tables with the code."""

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import psycopg
from alembic import command
from alembic.autogenerate import produce_migrations, render_python_code
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import ResolutionError
from alembic.util import CommandError
from sqlalchemy import exc

from tamatar_auth.migrator.connection import MigrationError, engine
from tamatar_auth.migrator.revisions import head_revision, migrations_folder
from tamatar_auth.migrator.steps import Progress, revision_title
from tamatar_auth.migrator.version_table import find_version_table, missing_tables
from tamatar_auth.storage import factor_tables  # noqa: F401 - tables of the same metadata
from tamatar_auth.storage.tables import VERSION_TABLE, metadata

__all__ = ["MigrationError", "MigrationStatus", "Migrations", "head_revision"]


def _is_own_name(name: str | None, kind: str, _: Any) -> bool:
    """Return whether to compare what PostgreSQL has: other programs may have tables there too."""
    return kind != "table" or name in metadata.tables


COMPARISON = {
    "compare_type": True,
    "compare_server_default": True,
    "include_name": _is_own_name,
}
"""How alembic compares the database with the tables of the code."""


class MigrationStatus(NamedTuple):
    """The revision of the tables; `current` is None before the first migration."""

    current: str | None
    head: str
    pending: Sequence[str]
    """The revisions that are not applied yet, each with its number and title."""

    def __str__(self) -> str:
        where = f"The tables are at {self.current}" if self.current else "There are no tables yet"
        if not self.pending:
            return f"{where}, the newest revision."
        return "\n  ".join([f"{where}. Not yet applied:", *self.pending])


class Migrations:
    """The migrations of one database. Every method raises `MigrationError` on failure."""

    def __init__(
        self,
        url: str,
        *,
        report: Callable[[str], None] = lambda _: None,
        lock_wait: timedelta = timedelta(minutes=10),
    ) -> None:
        """Take a URL in libpq's form, and how long to wait for another migrator."""
        self._url = url
        self._progress = Progress(report)
        attributes = {"url": url, "progress": self._progress, "patience": lock_wait}
        self._config = Config(attributes=attributes)
        self._config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
        self._config.set_main_option("path_separator", "os")
        self._scripts = ScriptDirectory.from_config(self._config)

    def upgrade(self, revision: str = "head") -> None:
        """Apply the missing revisions, up to and including this one."""
        self._run(command.upgrade, revision)

    def downgrade(self, revision: str) -> None:
        """Undo the revisions after this one; `base` undoes all."""
        self._run(command.downgrade, revision)

    def status(self) -> MigrationStatus:
        """Return the revision of the tables and what is pending."""
        with _translate_errors(), engine(self._url).connect() as connection:
            table = find_version_table(connection)
            context = MigrationContext.configure(connection, opts={"version_table": table})
            current = context.get_current_revision()
            unapplied = list(self._scripts.iterate_revisions("head", current or "base"))
            missing = [] if unapplied else missing_tables(connection)
        if missing:
            raise MigrationError(
                f"The database is at {current}, but has no tables {', '.join(missing)}: restore"
                " them from a backup."
            )
        pending = [revision_title(script) for script in reversed(unapplied)]
        if table != VERSION_TABLE:
            pending.insert(0, f"Move the revision from {table} to {VERSION_TABLE}")
        return MigrationStatus(current, head_revision(), pending)

    def sql(self, revisions: str = "head") -> None:
        """Print the SQL from the first revision (default: `base`) to the last.

        `0001:0002` upgrades, `0002:0001` downgrades. Run it with psql, statement by statement:
        some of it cannot run in a transaction.
        """
        begin, _, end = revisions.rpartition(":")
        for revision in (begin or "base", end):
            self._check_revision(revision)
        down = end == "base" or (begin.isdigit() and end.isdigit() and int(end) < int(begin))
        with _translate_errors():
            run = command.downgrade if down else command.upgrade
            run(self._config, f"{begin or 'base'}:{end}", sql=True)

    def check(self) -> Sequence[str]:
        """Return the operations that would bring the database to the tables of the code."""
        with _translate_errors(), engine(self._url).connect() as connection:
            context = MigrationContext.configure(connection, opts=COMPARISON)
            operations = produce_migrations(context, metadata).upgrade_ops
            assert operations is not None  # noqa: S101 - for the type checker
            code = render_python_code(operations, migration_context=context)
        # The further lines of an operation are indented deeper than its first one.
        found = re.findall(r"^ {4}(op\..+(?:\n {5,}.+)*)", code, re.MULTILINE)
        return [" ".join(operation.split()) for operation in found]

    def _run(self, run: Callable[[Config, str], Any], revision: str) -> None:
        self._check_revision(revision)
        before = self._progress.revisions
        with _translate_errors():
            run(self._config, revision)
        if self._progress.revisions == before:
            self._progress.report(f"Nothing to do. {self.status()}")

    def _check_revision(self, revision: str) -> None:
        if revision.startswith(("-", "+")):
            return  # relative to the current revision: alembic checks it
        try:
            self._scripts.get_revisions(revision)
        except CommandError:
            raise MigrationError(
                f"There is no revision {revision}: the newest one is {head_revision()}."
            ) from None


@contextlib.contextmanager
def _translate_errors() -> Iterator[None]:
    """Translate errors of alembic and PostgreSQL into one sentence."""
    try:
        yield
    except (CommandError, ResolutionError) as error:
        unknown = error.__cause__ or error
        if isinstance(unknown, ResolutionError):
            raise MigrationError(
                f"The database is at revision {unknown.argument}, which is newer than this release"
                f" (its newest is {head_revision()}): use the release that migrated it."
            ) from None
        raise MigrationError(f"{error}.") from None
    except (psycopg.Error, exc.DBAPIError) as error:
        cause = error.orig if isinstance(error, exc.DBAPIError) else error
        message = cause.diag.message_primary if isinstance(cause, psycopg.Error) else None
        text = message or "the connection was lost"
        raise MigrationError(f"PostgreSQL ended the migration: {text}.") from error
