"""Group reads: calls that look for a row each share a statement.

A statement costs the service more than the rest of a call does. Calls that come while others
are looked up gather, and one statement finds the rows of all of them. It begins after the
last of them came, so every call reads what was committed before it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping
from contextvars import Context
from datetime import timedelta
from typing import Any, Generic, TypeAlias, TypeVar

from tamatar_auth.errors import ServiceStopping
from tamatar_auth.errors.storage import StorageUnavailable
from tamatar_auth.storage.session_validation.batch_window import BatchWindow

Key = TypeVar("Key", bound=Hashable)
Row = TypeVar("Row")

TakeKeys = Callable[[], Collection[Key]]
"""Gives the keys to look for; those that come later are for the next statement."""

ReadRows = Callable[[TakeKeys[Key]], Awaitable[Mapping[Key, Row]]]
"""Returns the rows of the keys that have one. It takes the keys when it has a connection, as
more may come while it waits for that, and answers no keys with no rows."""

Waiter: TypeAlias = "asyncio.Future[Any]"

OVERLAP_AFTER = 0.02
"""Seconds after which a statement holds up the next one no longer."""

READ_TIMEOUT = timedelta(seconds=2.5)
"""After which an answer is not waited for any more. A host that went away after it took the
statement neither answers nor ends the connection; one that is there says by then what has kept
it, as a lock is waited for no longer than 2 seconds."""

CANCEL_CHECK_INTERVAL = 0.25
"""Seconds between two looks for statements that nobody waits for any more."""

MAX_STATEMENTS = 4
"""How many statements run at once: the next ones wait, and share one."""

MAX_KEYS = 1000
"""How many keys a statement looks for."""


class BatchLoader(Generic[Key, Row]):
    """Finds the rows of keys, those of calls at the same time by one statement.

    It belongs to the loop that runs when it is made.
    """

    def __init__(self, read: ReadRows[Key, Row], *, timeout: timedelta = READ_TIMEOUT) -> None:
        self._read = read
        self._timeout = timeout.total_seconds()
        self._pending: dict[Waiter, Key] = {}
        self._running: dict[asyncio.Task[None], Mapping[Waiter, Key]] = {}
        """The statements, and who waits for each."""
        self._starting: asyncio.Task[None] | None = None
        """The one of those running that has not taken its keys yet."""
        self._timer: asyncio.TimerHandle | None = None
        self._cancel_check: asyncio.TimerHandle | None = None
        self._window = BatchWindow()
        self._is_closed = False
        # Python asks for the id of the process before it tells the loop that runs.
        self._loop = asyncio.get_running_loop()

    def __call__(self, key: Key) -> "asyncio.Future[Row | None]":
        """Return the row of a key, or None; raise what the statement of its group raised.

        Whoever stops awaiting it has gone: nothing is looked up for it.
        """
        if self._is_closed:
            raise ServiceStopping
        waiter: Waiter = self._loop.create_future()
        pending = self._pending
        pending[waiter] = key
        if self._starting is None and (
            self._timer is None or len(pending) == self._window.full_size
        ):
            self._schedule()
        return waiter

    async def close(self) -> None:
        """Refuse who comes from now on; return when nobody waits and nothing runs.

        A statement that nobody waits for any more is given up.
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
        if self._running:  # what cannot even be cancelled is left behind
            await asyncio.wait(self._running, timeout=1)

    def _schedule(self) -> None:
        """See to it that a statement begins: at once for who is alone, or else soon."""
        if len(self._running) >= MAX_STATEMENTS:
            return  # the end of one arranges the next
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
        # In a context of its own: the statement belongs to no call more than to another.
        self._starting = self._loop.create_task(self._run(), context=Context())
        self._running[self._starting] = {}
        if self._cancel_check is None:
            self._cancel_check = self._call_later(CANCEL_CHECK_INTERVAL, self._cancel_unawaited)
        self._starting.add_done_callback(self._on_done)

    def _cancel_unawaited(self) -> None:
        """End the statements that nobody waits for any more: others need their turns."""
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
        # In a context of its own: that of the call would be kept beyond the call.
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
            return set(batch.values())

        def on_timeout() -> None:
            nonlocal timed_out
            timed_out = True
            task.cancel()

        # asyncio.timeout would cost a tenth of the statement.
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
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait are told
            self._fail(StorageUnavailable() if isinstance(error, TimeoutError) else error, batch)
        else:
            _resolve(batch or {}, rows)
        finally:
            timer.cancel()

    def _take_batch(self) -> Mapping[Waiter, Key]:
        """Give the group that a statement is for; those who have gone are not in it."""
        self._starting = None
        waiting = [entry for entry in self._pending.items() if not entry[0].done()]
        batch, self._pending = dict(waiting[:MAX_KEYS]), dict(waiting[MAX_KEYS:])
        self._window.record_batch(len(batch), self._loop.time())
        return batch

    def _fail(self, error: Exception, batch: Mapping[Waiter, Key] | None) -> None:
        """Tell those who wait of an error; without a connection these are all that have come."""
        for waiter in self._take_batch() if batch is None else batch:
            if not waiter.done():
                waiter.set_exception(error)


def _is_awaited(batch: Mapping[Waiter, Any]) -> bool:
    return any(not waiter.done() for waiter in batch)


def _resolve(batch: Mapping[Waiter, Key], rows: Mapping[Key, Row]) -> None:
    for waiter, key in batch.items():
        if not waiter.done():
            waiter.set_result(rows.get(key))
