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
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from psycopg.waiting import wait_async

from tamatar_auth.observability import semconv as names
from tamatar_auth.storage.driver.liveness import (
    SUSPICIOUS,
    Patience,
    Silence,
    SilentServerError,
    has_heard,
)
from tamatar_auth.storage.driver.waiting import answered

Result = TypeVar("Result")

PATIENCE = 2.0
"""Seconds in which a server has to take the request to end a statement."""

LONGEST_DOUBT = 30.0
"""Seconds after which a commit is not waited for any more: its server may never come back, and
another one write in its place. The commit goes on waiting there."""

LAST_PATIENCE = 0.1
"""Seconds for what is left when the process ends."""


class Abandoned:
    """Ends statements that nobody waits for any more, and closes their connections.

    A COMMIT is not ended: one that waits for a standby would then count as committed here, and
    the next call would tell of it as if it could not be lost. It is waited for.
    """

    def __init__(self, meter: Meter | None = None) -> None:
        self.ended = self.left = self.commits = 0
        """How many were ended, how many could not be as the server took no request in time, and
        how many were commits."""
        self.in_doubt = 0
        """How many commits the server has not answered yet."""
        self.silence = Silence()
        self._tasks: set[asyncio.Task[None]] = set()
        self._kept: list[Callable[[], None]] = []
        if meter is not None:
            _watch(self, meter)

    def end(self, connection: "Connection") -> None:
        """End the statement that runs on a connection, and close it; return at once."""
        self._start(self._ended(connection), connection)

    def wait(self, connection: "Connection", commit: PQGen[Any]) -> None:
        """Let a connection commit, and close it; return at once."""
        self.commits += 1
        self.in_doubt += 1
        self._start(self._committed(connection, commit), connection)

    def keep(self, close: Callable[[], None]) -> None:
        """Remember what closes something else that calls leave behind."""
        self._kept.append(close)

    async def close(self) -> None:
        """Give the statements a moment to end, and go."""
        for close in self._kept:
            close()
        if self._tasks:
            _, left = await asyncio.wait(self._tasks, timeout=LAST_PATIENCE)
            for task in left:
                task.cancel()

    def _start(self, work: Coroutine[Any, Any, None], connection: "Connection") -> None:
        # In a context of its own: the call that it was for is over.
        task = asyncio.get_running_loop().create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: connection.pgconn.finish())

    async def _ended(self, connection: "Connection") -> None:
        try:
            await connection.cancel_safe(timeout=PATIENCE)
        except (psycopg.Error, OSError):
            self.left += 1
            self.silence.since(connection.asked_at)
        else:
            self.ended += 1

    async def _committed(self, connection: "Connection", commit: PQGen[Any]) -> None:
        try:
            async with asyncio.timeout(LONGEST_DOUBT):
                await wait_async(commit, connection.pgconn.socket, INTERVAL)
        except (psycopg.Error, OSError, TimeoutError):
            pass  # the call's outcome stays unknown, as its caller was told
        finally:
            self.in_doubt -= 1


INTERVAL = 0.1
"""Seconds after which psycopg looks at a connection of which it has heard nothing."""


class UnconfirmedError(psycopg.OperationalError):
    """Somebody ended a commit's wait for the standbys: it is seen, but may be lost."""


class Connection(psycopg.AsyncConnection[Any]):
    """A connection that a cancelled task leaves at once, whatever the server does."""

    abandoned: Abandoned
    patience: Patience
    began_at: float
    """When it was begun to be opened."""
    asked_at: float
    """When the last statement began."""
    prepared: dict[str, Any]
    """The statements of `PlainStatement` that are prepared on it, by their texts."""
    commits_at_once = False
    """Whether its statements write, and are each a transaction of its own."""
    _is_left = False
    _is_committing = False
    _is_confirmed = True

    @classmethod
    async def open(
        cls, abandoned: Abandoned, url: str, patience: Patience, **arguments: Any
    ) -> Self:
        """Connect to a server."""
        began_at = monotonic()
        connection = await cls.connect(url, **arguments)
        connection.abandoned, connection.patience = abandoned, patience
        connection.began_at = connection.asked_at = began_at
        connection.prepared = {}
        connection.add_notice_handler(connection._hear)  # noqa: SLF001 - its own
        return connection

    async def wait(
        self,
        gen: PQGen[Result],
        interval: float = INTERVAL,
        timeout: float | None = None,  # noqa: ASYNC109 - psycopg's
    ) -> Result:
        """Wait as psycopg does, but no longer than the task that waits.

        Raise `UnconfirmedError` as `commit` does, where a statement is a commit too, and
        `SilentServerError`.
        """
        if timeout is not None:  # it waits to be told something: nothing was asked
            return await super().wait(gen, interval, timeout)
        if self.commits_at_once:
            self._is_confirmed = True
        self.asked_at = monotonic()
        try:
            first = next(gen)
        except StopIteration as end:
            # psycopg would let others run first. Whoever is cancelled there has a connection
            # that is in order, and SQLAlchemy loses it where it only changes what it is set to.
            nothing_asked: Result = end.value
            return nothing_asked
        try:
            result = await answered(gen, first, self.pgconn.socket, interval, self.refuse_silence)
        except asyncio.CancelledError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self._suspect()
                self._leave(gen)
            raise
        except SilentServerError:
            self._leave(gen)
            raise
        if self.commits_at_once and not self._is_confirmed:
            raise UnconfirmedError
        return result

    async def commit(self) -> None:
        """Commit as psycopg does; a commit that was begun is not taken back.

        Raise `UnconfirmedError` where PostgreSQL calls a success what it warns of.
        """
        self._is_committing = self._is_confirmed = True
        try:
            await super().commit()
        finally:
            self._is_committing = False
        if not self._is_confirmed:
            raise UnconfirmedError

    async def close(self) -> None:
        """Close the connection, unless that is left to others."""
        if not self._is_left:
            await super().close()

    @property
    def broken(self) -> bool:
        """Whether it is no use any more although nobody has closed it."""
        return self._is_left or super().broken

    def refuse_silence(self) -> None:
        """Raise `SilentServerError` where the server has been silent for too long."""
        if self.closed:
            raise psycopg.OperationalError("the connection was closed")
        if self.pgconn.transaction_status != TransactionStatus.ACTIVE:
            return  # nothing was asked: it waits to be told something
        waited = monotonic() - self.asked_at
        longest = self.patience.longest
        # A commit may wait for a standby longer than any statement may take.
        if longest is not None and waited > longest and not self._commits:
            self.abandoned.silence.since(self.asked_at)
            raise SilentServerError
        if waited > SUSPICIOUS and self.abandoned.silence.is_around(self):
            raise SilentServerError

    def _hear(self, notice: psycopg.errors.Diagnostic) -> None:
        # Its code is that of any warning, and its text is in any language.
        if notice.source_function == "SyncRepWaitForLSN":
            self._is_confirmed = False

    def _suspect(self) -> None:
        longest = self.patience.left
        is_late = longest is not None and monotonic() - self.asked_at > longest
        # It may be this process that was late.
        if is_late and not has_heard(self.pgconn.socket):
            self.abandoned.silence.since(self.asked_at)

    @property
    def _commits(self) -> bool:
        return self._is_committing or self.commits_at_once

    def _leave(self, gen: PQGen[Any]) -> None:
        self._is_left = True
        if self._commits:
            self.abandoned.wait(self, gen)
        else:
            self.abandoned.end(self)


def _watch(abandoned: Abandoned, meter: Meter) -> None:
    def count(_options: CallbackOptions) -> Iterable[Observation]:
        yield Observation(abandoned.ended, {names.ABANDONED_OUTCOME: "ended"})
        yield Observation(abandoned.left, {names.ABANDONED_OUTCOME: "left"})
        yield Observation(abandoned.commits, {names.ABANDONED_OUTCOME: "commit"})

    def doubt(_options: CallbackOptions) -> Iterable[Observation]:
        yield Observation(abandoned.in_doubt)

    meter.create_observable_counter(
        names.ABANDONED,
        [count],
        unit="{statement}",
        description="The statements that ran when their calls ended.",
    )
    meter.create_observable_up_down_counter(
        names.IN_DOUBT,
        [doubt],
        unit="{statement}",
        description="The commits of calls that have ended which the server has not answered.",
    )
