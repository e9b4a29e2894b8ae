"""A psycopg connection whose waits end when the task is cancelled or the server falls silent."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from time import monotonic
from typing import Any, Self, TypeAlias, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from psycopg.waiting import Wait, wait_async

from tamatar_auth.storage.driver import server_parameters
from tamatar_auth.storage.driver.cursors import Cursor
from tamatar_auth.storage.driver.liveness import (
    SUSPECT_AFTER,
    SilenceLimits,
    SilentServerError,
    is_readable,
)
from tamatar_auth.storage.driver.orphaned_statements import IDLE_CHECK_INTERVAL, OrphanedStatements
from tamatar_auth.storage.sqlstates import StatementTimedOutError

IN_TRANSACTION = (TransactionStatus.INTRANS, TransactionStatus.INERROR)

Observe: TypeAlias = Callable[[str, psycopg.ConnectionInfo], AbstractContextManager[None]]
"""Observes a statement that no engine runs, and that has no values, while the block runs."""

Result = TypeVar("Result")


class UnconfirmedCommitError(psycopg.OperationalError):
    """An operator ended a commit's wait for the standbys. It is visible, but may be lost."""


class Connection(psycopg.AsyncConnection[Any]):
    """A connection that a cancelled task leaves at once, whatever the server does."""

    orphaned: OrphanedStatements
    limits: SilenceLimits
    connect_started_at: float
    """When connecting began."""
    statement_started_at: float
    """When the last statement began."""
    each_statement_commits = False
    """Whether its statements write, and each is a transaction of its own."""
    observe: Observe | None = None
    _is_orphaned = False
    _is_committing = False
    _is_confirmed = True

    @classmethod
    async def open(
        cls,
        orphaned: OrphanedStatements,
        url: str,
        limits: SilenceLimits,
        observe: Observe | None = None,
        **arguments: Any,
    ) -> Self:
        """Connect to a server, or raise what psycopg raises or `UnsupportedServerError`."""
        connect_started_at = monotonic()
        connection = await cls.connect(url, cursor_factory=Cursor, **arguments)
        connection.orphaned, connection.limits = orphaned, limits
        connection.observe = observe
        connection.connect_started_at = connection.statement_started_at = connect_started_at
        connection.add_notice_handler(connection._on_notice)  # noqa: SLF001 - its own
        try:
            server_parameters.raise_if_unsupported(connection.info)
            if repair := server_parameters.find_repair(connection.info):
                await connection.execute(repair, prepare=False)
                await connection.commit()
        except BaseException:
            await connection.close()
            raise
        return connection

    async def wait(
        self,
        gen: PQGen[Result],
        interval: float = IDLE_CHECK_INTERVAL,
        timeout: float | None = None,  # noqa: ASYNC109 - psycopg's
    ) -> Result:
        """Wait as psycopg does, but end with the task that waits.

        Raise `SilentServerError` if the server is silent, `StatementTimedOutError` if PostgreSQL
        has ended the statement because of its timeout, and `UnconfirmedCommitError` as `commit`
        does if the statement is a commit too.
        """
        if timeout is not None:  # it waits for a notification: there is no statement
            return await super().wait(gen, interval, timeout)
        if self.each_statement_commits:
            self._is_confirmed = True
        self.statement_started_at = monotonic()
        try:
            first = next(gen)
        except StopIteration as end:
            # psycopg may yield to the event loop here. A task cancelled at that point would
            # lose a healthy connection in which SQLAlchemy only changes a setting.
            immediate_result: Result = end.value
            return immediate_result
        try:
            result = await wait_for_result(
                gen, first, self.pgconn.socket, interval, self.raise_if_silent
            )
        except asyncio.CancelledError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self._report_if_silent()
                self._orphan(gen)
            raise
        except SilentServerError:
            self._orphan(gen)
            raise
        except psycopg.errors.QueryCanceled as error:
            if self.limits.exceeds_timeout(monotonic() - self.statement_started_at):
                raise StatementTimedOutError from error
            raise  # an operator has cancelled the statement
        if self.each_statement_commits and not self._is_confirmed:
            raise UnconfirmedCommitError
        return result

    async def commit(self) -> None:
        """Commit as psycopg does. A commit that has begun is never cancelled.

        Raise `UnconfirmedCommitError` if PostgreSQL reports success with a warning that the
        standbys have not confirmed it.
        """
        self._is_committing = self._is_confirmed = True
        try:
            with self._observed_end("COMMIT"):
                await super().commit()
                if not self._is_confirmed:
                    raise UnconfirmedCommitError
        finally:
            self._is_committing = False

    async def rollback(self) -> None:
        """Roll back as psycopg does."""
        with self._observed_end("ROLLBACK"):
            await super().rollback()

    async def close(self) -> None:
        """Close the connection, unless `OrphanedStatements` will."""
        if not self._is_orphaned:
            await super().close()

    @property
    def broken(self) -> bool:
        """Whether the connection is unusable although it was not closed."""
        return self._is_orphaned or super().broken

    def raise_if_silent(self) -> None:
        """Raise `SilentServerError` if the server has been silent for too long."""
        if self.closed:
            raise psycopg.OperationalError("the connection was closed")
        if self.pgconn.transaction_status != TransactionStatus.ACTIVE:
            return  # no statement runs, so the server has nothing to answer
        waited = monotonic() - self.statement_started_at
        limit = self.limits.statement
        # A commit may wait for a standby longer than any statement may take.
        if limit is not None and waited > limit and not self._is_commit:
            self.orphaned.failure_detector.report_silence(self.statement_started_at)
            raise SilentServerError
        if waited > SUSPECT_AFTER and self.orphaned.failure_detector.suspects(
            self.connect_started_at
        ):
            raise SilentServerError

    def observed(self, statement: str) -> AbstractContextManager[None]:
        """Observe a statement as `Observe` does, if the connection has an observer."""
        return nullcontext() if self.observe is None else self.observe(statement, self.info)

    def _observed_end(self, statement: str) -> AbstractContextManager[None]:
        # Outside of a transaction psycopg sends neither COMMIT nor ROLLBACK.
        is_sent = self.pgconn.transaction_status in IN_TRANSACTION
        return self.observed(statement) if is_sent else nullcontext()

    def _on_notice(self, notice: psycopg.errors.Diagnostic) -> None:
        # The warning has a general code and a translated text: only its function identifies it.
        if notice.source_function == "SyncRepWaitForLSN":
            self._is_confirmed = False

    def _report_if_silent(self) -> None:
        limit = self.limits.cancelled
        is_late = limit is not None and monotonic() - self.statement_started_at > limit
        # If an answer is there to read, this process was late, not the server.
        if is_late and not is_readable(self.pgconn.socket):
            self.orphaned.failure_detector.report_silence(self.statement_started_at)

    @property
    def _is_commit(self) -> bool:
        return self._is_committing or self.each_statement_commits

    def _orphan(self, gen: PQGen[Any]) -> None:
        self._is_orphaned = True
        if self._is_commit:
            self.orphaned.finish_commit(self, gen)
        else:
            self.orphaned.cancel(self, self.statement_started_at)


async def wait_for_result(
    gen: PQGen[Result], state: Wait, socket: int, interval: float, on_idle: Callable[[], None]
) -> Result:
    """Run a generator of psycopg, which has yielded `state`, to its end; return its result.

    `on_idle` is called each time the server has sent nothing for `interval` seconds. What it
    raises is raised.
    """
    return await wait_async(_with_check(gen, state, on_idle), socket, interval)


def _with_check(gen: PQGen[Result], state: Wait, on_idle: Callable[[], None]) -> PQGen[Result]:
    # Without `yield from`: a caller that was cancelled may still resume `gen`.
    while True:
        ready = yield state
        if not ready:
            on_idle()
        try:
            state = gen.send(ready)
        except StopIteration as end:
            result: Result = end.value
            return result
