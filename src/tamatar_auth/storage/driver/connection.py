"""What calls leave behind that end in the middle of a statement.

psycopg cancels the statement of a cancelled task within that task. As a rule this takes
milliseconds, but a server that is frozen or cut off would hold the call for seconds after its
deadline. So the task goes at once, and what is left to do is done here.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from contextvars import Context
from time import monotonic
from typing import Any, Self, TypeVar

import psycopg
from opentelemetry.metrics import Meter, Observation
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from psycopg.waiting import wait_async

from tamatar_auth.observability import semconv
from tamatar_auth.observability.instruments import observe_counter, observe_gauge
from tamatar_auth.storage.driver.liveness import (
    SUSPECT_AFTER,
    FailureDetector,
    SilenceLimits,
    SilentServerError,
    is_readable,
)
from tamatar_auth.storage.driver.waiting import wait_for_result

Result = TypeVar("Result")

CANCEL_TIMEOUT = 2.0
"""Seconds in which a server has to take the request to end a statement."""

IN_DOUBT_TIMEOUT = 30.0
"""Seconds after which a commit is not waited for any more: its server may never come back, and
another one write in its place. The commit goes on waiting there."""

CLOSE_TIMEOUT = 0.1
"""Seconds for what is left when the process ends."""


class OrphanedStatements:
    """Ends statements that nobody waits for any more, and closes their connections.

    A COMMIT is not ended: one that waits for a standby would then count as committed here, and
    the next call would tell of it as if it could not be lost. It is waited for.
    """

    def __init__(self, meter: Meter | None = None) -> None:
        self.cancelled = self.cancel_failures = self.commits = 0
        """How many were ended, how many could not be as the server took no request in time, and
        how many were commits."""
        self.in_doubt = 0
        """How many commits the server has not answered yet."""
        self.failure_detector = FailureDetector()
        self._tasks: set[asyncio.Task[None]] = set()
        self._close_callbacks: list[Callable[[], None]] = []
        if meter is not None:
            _register_metrics(self, meter)

    def cancel(self, connection: "Connection") -> None:
        """End the statement that runs on a connection, and close it; return at once."""
        self._start(self._cancel_statement(connection), connection)

    def finish_commit(self, connection: "Connection", commit: PQGen[Any]) -> None:
        """Let a connection commit, and close it; return at once."""
        self.commits += 1
        self.in_doubt += 1
        self._start(self._await_commit(connection, commit), connection)

    def on_close(self, close: Callable[[], None]) -> None:
        """Remember what closes something else that calls leave behind."""
        self._close_callbacks.append(close)

    async def close(self) -> None:
        """Give the statements a moment to end, and go."""
        for close in self._close_callbacks:
            close()
        if self._tasks:
            _, pending = await asyncio.wait(self._tasks, timeout=CLOSE_TIMEOUT)
            for task in pending:
                task.cancel()

    def _start(self, work: Coroutine[Any, Any, None], connection: "Connection") -> None:
        # In a context of its own: the call that it was for is over.
        task = asyncio.get_running_loop().create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: connection.pgconn.finish())

    async def _cancel_statement(self, connection: "Connection") -> None:
        try:
            await connection.cancel_safe(timeout=CANCEL_TIMEOUT)
        except (psycopg.Error, OSError):
            self.cancel_failures += 1
            self.failure_detector.report_silence(connection.statement_started_at)
        else:
            self.cancelled += 1

    async def _await_commit(self, connection: "Connection", commit: PQGen[Any]) -> None:
        try:
            async with asyncio.timeout(IN_DOUBT_TIMEOUT):
                await wait_async(commit, connection.pgconn.socket, IDLE_CHECK_INTERVAL)
        except (psycopg.Error, OSError, TimeoutError):
            pass  # the call's outcome stays unknown, as its caller was told
        finally:
            self.in_doubt -= 1


IDLE_CHECK_INTERVAL = 0.1
"""Seconds after which psycopg looks at a connection of which it has heard nothing."""


class UnconfirmedCommitError(psycopg.OperationalError):
    """Somebody ended a commit's wait for the standbys: it is seen, but may be lost."""


class Connection(psycopg.AsyncConnection[Any]):
    """A connection that a cancelled task leaves at once, whatever the server does."""

    orphaned: OrphanedStatements
    limits: SilenceLimits
    connect_started_at: float
    """When it was begun to be opened."""
    statement_started_at: float
    """When the last statement began."""
    prepared: dict[str, Any]
    """The statements of `PreparedStatement` that are prepared on it, by their texts."""
    each_statement_commits = False
    """Whether its statements write, and are each a transaction of its own."""
    _is_orphaned = False
    _is_committing = False
    _is_confirmed = True

    @classmethod
    async def open(
        cls, orphaned: OrphanedStatements, url: str, limits: SilenceLimits, **arguments: Any
    ) -> Self:
        """Connect to a server."""
        connect_started_at = monotonic()
        connection = await cls.connect(url, **arguments)
        connection.orphaned, connection.limits = orphaned, limits
        connection.connect_started_at = connection.statement_started_at = connect_started_at
        connection.prepared = {}
        connection.add_notice_handler(connection._on_notice)  # noqa: SLF001 - its own
        return connection

    async def wait(
        self,
        gen: PQGen[Result],
        interval: float = IDLE_CHECK_INTERVAL,
        timeout: float | None = None,  # noqa: ASYNC109 - psycopg's
    ) -> Result:
        """Wait as psycopg does, but no longer than the task that waits.

        Raise `UnconfirmedCommitError` as `commit` does, where a statement is a commit too, and
        `SilentServerError`.
        """
        if timeout is not None:  # it waits to be told something: nothing was asked
            return await super().wait(gen, interval, timeout)
        if self.each_statement_commits:
            self._is_confirmed = True
        self.statement_started_at = monotonic()
        try:
            first = next(gen)
        except StopIteration as end:
            # psycopg would let others run first. Whoever is cancelled there has a connection
            # that is in order, and SQLAlchemy loses it where it only changes what it is set to.
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
        if self.each_statement_commits and not self._is_confirmed:
            raise UnconfirmedCommitError
        return result

    async def commit(self) -> None:
        """Commit as psycopg does; a commit that was begun is not taken back.

        Raise `UnconfirmedCommitError` where PostgreSQL calls a success what it warns of.
        """
        self._is_committing = self._is_confirmed = True
        try:
            await super().commit()
        finally:
            self._is_committing = False
        if not self._is_confirmed:
            raise UnconfirmedCommitError

    async def close(self) -> None:
        """Close the connection, unless that is left to others."""
        if not self._is_orphaned:
            await super().close()

    @property
    def broken(self) -> bool:
        """Whether it is no use any more although nobody has closed it."""
        return self._is_orphaned or super().broken

    def raise_if_silent(self) -> None:
        """Raise `SilentServerError` where the server has been silent for too long."""
        if self.closed:
            raise psycopg.OperationalError("the connection was closed")
        if self.pgconn.transaction_status != TransactionStatus.ACTIVE:
            return  # nothing was asked: it waits to be told something
        waited = monotonic() - self.statement_started_at
        limit = self.limits.statement
        # A commit may wait for a standby longer than any statement may take.
        if limit is not None and waited > limit and not self._is_commit:
            self.orphaned.failure_detector.report_silence(self.statement_started_at)
            raise SilentServerError
        if waited > SUSPECT_AFTER and self.orphaned.failure_detector.suspects(self):
            raise SilentServerError

    def _on_notice(self, notice: psycopg.errors.Diagnostic) -> None:
        # Its code is that of any warning, and its text is in any language.
        if notice.source_function == "SyncRepWaitForLSN":
            self._is_confirmed = False

    def _report_if_silent(self) -> None:
        limit = self.limits.cancelled
        is_late = limit is not None and monotonic() - self.statement_started_at > limit
        # It may be this process that was late.
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
            self.orphaned.cancel(self)


def _register_metrics(orphaned: OrphanedStatements, meter: Meter) -> None:
    def read() -> Iterable[Observation]:
        yield Observation(orphaned.cancelled, {semconv.ABANDONED_OUTCOME: "ended"})
        yield Observation(orphaned.cancel_failures, {semconv.ABANDONED_OUTCOME: "left"})
        yield Observation(orphaned.commits, {semconv.ABANDONED_OUTCOME: "commit"})

    observe_counter(
        meter,
        semconv.ABANDONED,
        read,
        unit="{statement}",
        description="The statements that ran when their calls ended.",
    )
    observe_gauge(
        meter,
        semconv.IN_DOUBT,
        lambda: orphaned.in_doubt,
        unit="{statement}",
        description="The commits of ended calls that the server has not confirmed yet.",
    )
