"""Batching of lookups: concurrent calls share a statement.

A statement costs the service more than the rest of a call. Calls that arrive during a lookup
are collected, and one statement finds the rows of all of them. The statement starts after the
last of them arrived, so every call reads what was committed before it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping, Sequence
from contextvars import Context
from datetime import timedelta
from typing import Any, Generic, TypeAlias, TypeVar

from tamatar_auth.errors import ServiceStopping
from tamatar_auth.errors.storage import StorageUnavailable
from tamatar_auth.storage.instrumentation.call_record import (
    SampledCall,
    current_call,
    share_statements,
)
from tamatar_auth.storage.session_validation.batch_window import BatchWindow

Key = TypeVar("Key", bound=Hashable)
Row = TypeVar("Row")

TakeKeys = Callable[[], Collection[Key]]
"""Returns the keys to look up. Keys that arrive later belong to the next batch."""

ReadRows = Callable[[TakeKeys[Key]], Awaitable[Mapping[Key, Row]]]
"""Returns the rows of the keys that have one. It takes the keys once it has a connection,
because more may arrive until then. Without keys it returns no rows."""

Waiter: TypeAlias = "asyncio.Future[Any]"

OVERLAP_AFTER = 0.02
"""Seconds after which the next statement starts although one still runs."""

READ_TIMEOUT = timedelta(seconds=2.5)
"""The time that a statement may take. A host that vanished after it received the statement
neither answers nor closes the connection. A live host has reported by then why it is late,
because it waits for a lock for 2 seconds at most."""

CANCEL_CHECK_INTERVAL = 0.25
"""Seconds between two searches for statements that no call awaits any more."""

MAX_STATEMENTS = 4
"""Statements that run at once. Later calls wait, and share the next one."""

MAX_KEYS = 1000
"""Keys that a statement looks up."""


class BatchLoader(Generic[Key, Row]):
    """Finds the rows of keys; concurrent calls share a statement.

    It belongs to the event loop in which it is created.
    """

    def __init__(self, read: ReadRows[Key, Row], *, timeout: timedelta = READ_TIMEOUT) -> None:
        self._read = read
        self._timeout = timeout.total_seconds()
        self._pending: dict[Waiter, Key] = {}
        self._rpc = ""
        """The method of the latest call."""
        self._sampled: dict[Waiter, SampledCall] = {}
        """The pending calls whose spans are recorded."""
        self._running: dict[asyncio.Task[None], Mapping[Waiter, Key]] = {}
        """The statements that run, each with its batch."""
        self._starting: asyncio.Task[None] | None = None
        """The running statement that has not taken its keys yet."""
        self._timer: asyncio.TimerHandle | None = None
        self._cancel_check: asyncio.TimerHandle | None = None
        self._window = BatchWindow()
        self._is_closed = False
        # `get_running_loop` calls getpid each time, so its result is kept.
        self._loop = asyncio.get_running_loop()

    def load(self, key: Key) -> "asyncio.Future[Row | None]":
        """Return a future of the row of a key, or None. It raises what its statement raised.

        Cancelling the future removes the key from the batch.
        """
        if self._is_closed:
            raise ServiceStopping
        waiter: Waiter = self._loop.create_future()
        pending = self._pending
        pending[waiter] = key
        if (call := current_call.get()) is not None:
            self._rpc = call.rpc
            if call.sampled:
                self._sampled[waiter] = call.sampled[0]
        if self._starting is None and (
            self._timer is None or len(pending) == self._window.full_size
        ):
            self._schedule()
        return waiter

    async def close(self) -> None:
        """Reject new calls, and return when the pending ones are answered.

        Statements that no call awaits are cancelled.
        """
        self._is_closed = True
        while any(map(_is_awaited, [self._pending, *self._running.values()])):
            if not self._running:
                self._start()
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        self._pending.clear()
        self._cancel_timer()
        for statement in self._running:
            statement.cancel()
        if self._running:  # a statement that resists cancelling is abandoned
            await asyncio.wait(self._running, timeout=1)

    def _schedule(self) -> None:
        """Start a statement at once for a lone call, or after a short wait for more calls."""
        if len(self._running) >= MAX_STATEMENTS:
            return  # the end of a statement schedules the next one
        if self._running:
            if self._timer is None:
                self._timer = self._call_later(OVERLAP_AFTER, self._start)
            return
        wait = self._window.seconds_to_wait(len(self._pending), self._loop.time())
        if not wait:
            self._start()
        elif self._timer is None:
            self._timer = self._call_later(wait, self._start_after_wait)

    def _start_after_wait(self) -> None:
        self._window.record_wait(len(self._pending))
        self._start()

    def _start(self) -> None:
        self._cancel_timer()
        # No call's context is inherited, because the statement belongs to several calls.
        self._starting = self._loop.create_task(self._run(), context=Context())
        self._running[self._starting] = {}
        if self._cancel_check is None:
            self._cancel_check = self._call_later(CANCEL_CHECK_INTERVAL, self._cancel_unawaited)
        self._starting.add_done_callback(self._on_done)

    def _cancel_unawaited(self) -> None:
        """Cancel the statements that no call awaits, so that others can start."""
        for statement, batch in self._running.items():
            if batch and not _is_awaited(batch):
                statement.cancel()
        is_needed = self._running and not self._is_closed
        self._cancel_check = (
            self._call_later(CANCEL_CHECK_INTERVAL, self._cancel_unawaited) if is_needed else None
        )

    def _on_done(self, task: "asyncio.Task[None]") -> None:
        del self._running[task]
        if self._starting is task:
            self._starting = None
        if self._starting is None and self._pending:
            self._cancel_timer()
            self._window.record_arrivals(len(self._pending))
            self._schedule()

    def _call_later(self, seconds: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        # An inherited context would outlive its call.
        return self._loop.call_later(seconds, callback, context=Context())

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _run(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checker
        batch: Mapping[Waiter, Key] | None = None
        timed_out = False

        def take_keys() -> Collection[Key]:
            nonlocal batch
            batch = self._running[task] = self._take_batch()
            share_statements(self._rpc, self._take_sampled(batch))
            return set(batch.values())

        def on_timeout() -> None:
            nonlocal timed_out
            timed_out = True
            task.cancel()

        # `asyncio.timeout` would cost a tenth of the statement.
        timer = self._loop.call_later(self._timeout, on_timeout)
        try:
            rows = await self._read(take_keys)
        except asyncio.CancelledError:
            if timed_out:
                self._fail(StorageUnavailable(), batch)
                return
            for waiter in batch or ():
                waiter.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - it is raised in the calls that wait
            self._fail(StorageUnavailable() if isinstance(error, TimeoutError) else error, batch)
        else:
            for waiter, key in (batch or {}).items():
                if not waiter.done():
                    waiter.set_result(rows.get(key))
        finally:
            timer.cancel()

    def _take_batch(self) -> Mapping[Waiter, Key]:
        """Remove and return the pending keys, without those of cancelled calls."""
        self._starting = None
        waiting = [entry for entry in self._pending.items() if not entry[0].done()]
        batch, self._pending = dict(waiting[:MAX_KEYS]), dict(waiting[MAX_KEYS:])
        self._window.record_batch(len(batch), self._loop.time())
        return batch

    def _take_sampled(self, batch: Mapping[Waiter, Key]) -> Sequence[SampledCall]:
        """Remove and return the sampled calls of a batch. Forget those that were cancelled."""
        if not self._sampled:
            return ()
        sampled, pending = self._sampled, self._pending
        self._sampled = {waiter: call for waiter, call in sampled.items() if waiter in pending}
        return [call for waiter, call in sampled.items() if waiter in batch]

    def _fail(self, error: Exception, batch: Mapping[Waiter, Key] | None) -> None:
        """Raise an error in the calls of a batch, or in all pending calls if it took no keys."""
        for waiter in self._take_batch() if batch is None else batch:
            if not waiter.done():
                waiter.set_exception(error)


def _is_awaited(batch: Mapping[Waiter, Any]) -> bool:
    return any(not waiter.done() for waiter in batch)
