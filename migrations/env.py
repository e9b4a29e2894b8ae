"""alembic's environment: one migrator at a time, one transaction a revision."""

import io
import sys
from datetime import timedelta
from typing import Any

from alembic import context
from alembic.operations import MigrationScript
from alembic.runtime.migration import MigrationContext

from tamatar_auth.config.settings import Settings
from tamatar_auth.migrator import connection as migration_connection
from tamatar_auth.migrator.migrations import COMPARISON
from tamatar_auth.migrator.revisions import next_revision
from tamatar_auth.migrator.steps import Progress, Steps
from tamatar_auth.migrator.version_table import move_statement
from tamatar_auth.storage import factor_tables  # noqa: F401 - tables of the same metadata
from tamatar_auth.storage.driver.connect import libpq_url
from tamatar_auth.storage.tables import VERSION_TABLE, metadata


def _number(_: MigrationContext, __: object, directives: list[MigrationScript]) -> None:
    for directive in directives:
        directive.rev_id = next_revision()


def _echo(line: str) -> None:
    sys.stderr.write(f"{line}\n")


OPTIONS: dict[str, Any] = {
    "target_metadata": metadata,
    **COMPARISON,
    "version_table": VERSION_TABLE,
    "transaction_per_migration": True,
    "process_revision_directives": _number,
}

ATTRIBUTES = context.config.attributes


def _write_revision() -> None:
    """Write a new, numbered revision without a database."""
    context.configure(
        dialect_name="postgresql", as_sql=True, output_buffer=io.StringIO(), **OPTIONS
    )
    context.run_migrations()


def _print_sql() -> None:
    context.configure(
        dialect_name="postgresql",
        dialect_opts={"paramstyle": "named"},
        literal_binds=True,
        **OPTIONS,
    )
    for name, limit in migration_connection.LIMITS.items():
        context.execute(f"SET {name} = '{limit}'")
    if context.get_starting_revision_argument():
        Steps(context.get_context()).together(move_statement())
    with context.begin_transaction():
        context.run_migrations()


def _migrate() -> None:
    url: str = ATTRIBUTES.get("url") or libpq_url(Settings.load().database)
    progress: Progress = ATTRIBUTES.get("progress") or Progress(_echo)
    patience = ATTRIBUTES.get("patience", timedelta(minutes=10))
    with (
        migration_connection.migration_lock(url, progress.report, patience),
        migration_connection.engine(url).connect() as connection,
    ):
        driver: Any = connection.connection.driver_connection
        driver.add_notice_handler(progress.report_notice)
        context.configure(
            connection=connection,
            progress=progress,
            on_version_apply=progress.record_applied,
            **OPTIONS,
        )
        with context.get_context().autocommit_block():
            Steps(context.get_context()).together(move_statement())
        progress.restart_timer()
        with context.begin_transaction():
            context.run_migrations()


if getattr(context.config.cmd_opts, "autogenerate", None) is False:
    _write_revision()
elif context.is_offline_mode():
    _print_sql()
else:
    _migrate()
