"""Statements that outlive their calls.

psycopg cancels the statement of a cancelled task within that task. A server that is frozen or
cut off would hold the call for seconds after its deadline. So the task ends at once and leaves
its connection to `OrphanedStatements`.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from contextvars import Context
from typing import Any, TypeAlias

import psycopg
from opentelemetry.metrics import Meter, Observation
from psycopg.abc import PQGen
from psycopg.waiting import wait_async

from tamatar_auth.observability import semconv
from tamatar_auth.observability.instruments import observe_counter, observe_gauge
from tamatar_auth.storage.driver.liveness import FailureDetector
from tamatar_auth.storage.driver.primary_fence import PrimaryFence
from tamatar_auth.storage.driver.primary_hosts import PrimaryHosts

CANCEL_TIMEOUT = 2.0
"""Seconds in which a server must accept a cancel request."""

IN_DOUBT_TIMEOUT = 30.0
"""Seconds that the answer to a commit is awaited. Its server may never come back, and another
server may have taken its place. The commit itself goes on in PostgreSQL."""

CLOSE_TIMEOUT = 0.1
"""Seconds that the remaining statements have when the process ends."""

IDLE_CHECK_INTERVAL = 0.1
"""Seconds between two checks of a connection on which the server sends nothing."""

AnyConnection: TypeAlias = psycopg.AsyncConnection[Any]


class OrphanedStatements:
    """Ends the statements whose callers have gone, and closes their connections.

    A COMMIT is not cancelled but awaited. PostgreSQL would report a cancelled wait for a standby
    as a success, and later reads would return data that a failover can still lose.
    """

    def __init__(self, meter: Meter | None = None) -> None:
        self.cancelled = self.cancel_failures = self.commits = 0
        """Statements cancelled, statements whose server accepted no cancel request in time, and
        commits left to finish."""
        self.in_doubt = 0
        """Commits that the server has not answered yet."""
        self.failure_detector = FailureDetector()
        self.fence = PrimaryFence(self.failure_detector)
        self.hosts = PrimaryHosts()
        self._tasks: set[asyncio.Task[None]] = set()
        self._close_callbacks: list[Callable[[], None]] = []
        if meter is not None:
            _register_metrics(self, meter)

    def cancel(self, connection: AnyConnection, started_at: float) -> None:
        """Cancel the statement of a connection, and close the connection. Return at once.

        The server counts as silent since `started_at` if it does not accept the request.
        """
        self._start(self._cancel_statement(connection, started_at), connection)

    def finish_commit(self, connection: AnyConnection, commit: PQGen[Any]) -> None:
        """Await the commit of a connection, then close the connection. Return at once."""
        self.commits += 1
        self.in_doubt += 1
        self._start(self._await_commit(connection, commit), connection)

    def on_close(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the process ends."""
        self._close_callbacks.append(callback)

    async def close(self) -> None:
        """Give the statements a moment to end, then abandon them."""
        for callback in self._close_callbacks:
            callback()
        if self._tasks:
            _, pending = await asyncio.wait(self._tasks, timeout=CLOSE_TIMEOUT)
            for task in pending:
                task.cancel()

    def _start(self, work: Coroutine[Any, Any, None], connection: AnyConnection) -> None:
        # The call has ended, so its context is not inherited.
        task = asyncio.get_running_loop().create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: connection.pgconn.finish())

    async def _cancel_statement(self, connection: AnyConnection, started_at: float) -> None:
        try:
            await connection.cancel_safe(timeout=CANCEL_TIMEOUT)
        except (psycopg.Error, OSError):
            self.cancel_failures += 1
            self.failure_detector.report_silence(started_at)
        else:
            self.cancelled += 1

    async def _await_commit(self, connection: AnyConnection, commit: PQGen[Any]) -> None:
        try:
            async with asyncio.timeout(IN_DOUBT_TIMEOUT):
                await wait_async(commit, connection.pgconn.socket, IDLE_CHECK_INTERVAL)
        except (psycopg.Error, OSError, TimeoutError):
            pass  # the caller already got an error that leaves the outcome open
        finally:
            self.in_doubt -= 1


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
