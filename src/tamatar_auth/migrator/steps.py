"""The steps of a migration, which retry instead of blocking live traffic."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
from alembic import op
from alembic.runtime.migration import MigrationContext, MigrationInfo
from psycopg import errors

from tamatar_auth.migrator.connection import LIMITS, MigrationError

ATTEMPTS = 10
PAUSE_SECONDS = 1.0
"""Seconds before the second attempt; each later pause is longer by the same amount."""

_BLOCKERS = """
    SELECT string_agg(DISTINCT pid::text, ', ')
    FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE granted AND locktype = 'relation' AND pid <> pg_backend_pid()
      AND datname = current_database() AND xact_start < now() - make_interval(secs => %s)
      AND relation >= 16384  -- a table, not one of PostgreSQL's own
"""


def revision_title(script: Any) -> str:
    """Return the number of a revision and the first sentence of its docstring."""
    return f"{script.revision} {script.doc.rstrip('.')}"


class Progress:
    """Reports each revision when it is done, with the time it took."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self.report = report
        self.revisions = 0
        self._started_at = time.monotonic()

    def restart_timer(self) -> None:
        """Start measuring the next revision."""
        self._started_at = time.monotonic()

    def record_applied(self, *_: Any, **event: Any) -> None:
        """Report a revision that alembic has applied or undone."""
        step: MigrationInfo = event["step"]
        took, done = time.monotonic() - self._started_at, "done" if step.is_upgrade else "undone"
        self.report(f"{revision_title(step.up_revision)}: {done} in {took:.1f} s")
        self.revisions += 1
        self.restart_timer()

    def report_notice(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        """Report a RAISE INFO of a migration, and ignore PostgreSQL's own notices."""
        if diagnostic.severity_nonlocalized == "INFO" and diagnostic.message_primary:
            self.report(diagnostic.message_primary)


class Steps:
    """Runs statements outside alembic's transaction."""

    def __init__(self, context: MigrationContext) -> None:
        self._context = context

    def together(self, *statements: str) -> None:
        """Run statements in one transaction, and retry while a lock is not available."""
        if self._context.as_sql:
            statements = ("BEGIN", *statements, "COMMIT")
        self._run(statements, together=True)

    def alone(self, statement: str) -> None:
        """Run a statement that cannot run in a transaction, or that commits by itself."""
        self._run([statement], together=False)

    def unhurried(self, *statements: str) -> None:
        """Run statements, each alone, that block nothing while they wait for a lock."""
        limit = LIMITS["lock_timeout"]
        for statement in ("SET lock_timeout = 0", *statements, f"SET lock_timeout = '{limit}'"):
            self.alone(statement)

    def _run(self, statements: tuple[str, ...] | list[str], *, together: bool) -> None:
        if self._context.as_sql:
            for statement in statements:
                self._context.execute(statement)
            return
        progress: Progress = self._context.opts["progress"]
        for attempt in range(1, ATTEMPTS + 1):
            started = time.monotonic()
            if self._try_run(statements, together=together):
                return
            blockers = self._find_blockers(time.monotonic() - started)
            if attempt == ATTEMPTS:
                raise MigrationError(f"The tables stayed locked{blockers}; migrate again later.")
            progress.report(f"The tables are locked{blockers}: attempt {attempt} of {ATTEMPTS}.")
            time.sleep(PAUSE_SECONDS * attempt)

    def _try_run(self, statements: tuple[str, ...] | list[str], *, together: bool) -> bool:
        """Run the statements and return True, or False if a lock was not available."""
        driver = self._driver
        try:
            with driver.transaction() if together else contextlib.nullcontext():
                for statement in statements:
                    driver.execute(statement.encode())
        except (errors.LockNotAvailable, errors.DeadlockDetected):
            return False
        return True

    def _find_blockers(self, waited: float) -> str:
        # A transaction younger than our wait queued behind us.
        row = self._driver.execute(_BLOCKERS.encode(), [waited]).fetchone()
        return f" by process {row[0]} of PostgreSQL" if row and row[0] else ""

    @property
    def _driver(self) -> "psycopg.Connection[tuple[Any, ...]]":
        connection = self._context.connection
        assert connection is not None  # noqa: S101 - for the type checker
        driver: psycopg.Connection[tuple[Any, ...]] = connection.connection.driver_connection  # type: ignore[assignment]
        return driver


@contextlib.contextmanager
def steps() -> Iterator[Steps]:
    """Run a migration in steps; each step commits before the next.

    An interrupted migration restarts from its first step, so every step must be repeatable:
    IF NOT EXISTS, OR REPLACE, DROP ... IF EXISTS.
    """
    context = op.get_context()
    with context.autocommit_block():
        yield Steps(context)
