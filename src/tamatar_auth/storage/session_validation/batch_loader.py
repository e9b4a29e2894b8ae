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
from tamatar_auth.storage.session_validation.batch_window import Pace

Key = TypeVar("Key", bound=Hashable)
Row = TypeVar("Row")

Take = Callable[[], Collection[Key]]
"""Gives the keys to look for; those that come later are for the next statement."""

Read = Callable[[Take[Key]], Awaitable[Mapping[Key, Row]]]
"""Returns the rows of the keys that have one. It takes the keys when it has a connection, as
more may come while it waits for that, and answers no keys with no rows."""

Waiter: TypeAlias = "asyncio.Future[Any]"

SLOW = 0.02
"""Seconds after which a statement holds up the next one no longer."""

LONGEST_READ = timedelta(seconds=2.5)
"""After which an answer is not waited for any more. A host that went away after it took the
statement neither answers nor ends the connection; one that is there says by then what has kept
it, as a lock is waited for no longer than 2 seconds."""

LOOK = 0.25
"""Seconds between two looks for statements that nobody waits for any more."""

MOST_STATEMENTS = 4
"""How many statements run at once: the next ones wait, and share one."""

MOST_KEYS = 1000
"""How many keys a statement looks for."""


class GroupRead(Generic[Key, Row]):
    """Finds the rows of keys, those of calls at the same time by one statement.

    It belongs to the loop that runs when it is made.
    """

    def __init__(self, read: Read[Key, Row], *, longest: timedelta = LONGEST_READ) -> None:
        self._read = read
        self._longest = longest.total_seconds()
        self._gathered: dict[Waiter, Key] = {}
        self._running: dict[asyncio.Task[None], Mapping[Waiter, Key]] = {}
        """The statements, and who waits for each."""
        self._opening: asyncio.Task[None] | None = None
        """The one of those running that has not taken its keys yet."""
        self._timer: asyncio.TimerHandle | None = None
        self._look: asyncio.TimerHandle | None = None
        self._pace = Pace()
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
        gathered = self._gathered
        gathered[waiter] = key
        if self._opening is None and (self._timer is None or len(gathered) == self._pace.enough):
            self._arrange()
        return waiter

    async def close(self) -> None:
        """Refuse who comes from now on; return when nobody waits and nothing runs.

        A statement that nobody waits for any more is given up.
        """
        self._is_closed = True
        while any(map(_is_awaited, [self._gathered, *self._running.values()])):
            if not self._running:
                self._begin()
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        self._gathered.clear()
        self._forget_timer()
        for statement in self._running:
            statement.cancel()
        if self._running:  # what cannot even be cancelled is left behind
            await asyncio.wait(self._running, timeout=1)

    def _arrange(self) -> None:
        """See to it that a statement begins: at once for who is alone, or else soon."""
        if len(self._running) >= MOST_STATEMENTS:
            return  # the end of one arranges the next
        if self._running:
            if self._timer is None:
                self._timer = self._later(SLOW, self._begin)
            return
        wait = self._pace.wait(len(self._gathered), self._loop.time())
        if not wait:
            self._begin()
        elif self._timer is None:
            self._timer = self._later(wait, self._begin_as_time_is_up)

    def _begin_as_time_is_up(self) -> None:
        self._pace.waited(len(self._gathered))
        self._begin()

    def _begin(self) -> None:
        self._forget_timer()
        # In a context of its own: the statement belongs to no call more than to another.
        self._opening = self._loop.create_task(self._run(), context=Context())
        self._running[self._opening] = {}
        if self._look is None:
            self._look = self._later(LOOK, self._end_unawaited)
        self._opening.add_done_callback(self._ended)

    def _end_unawaited(self) -> None:
        """End the statements that nobody waits for any more: others need their turns."""
        for statement, group in self._running.items():
            if group and not _is_awaited(group):
                statement.cancel()
        is_needed = self._running and not self._is_closed
        self._look = self._later(LOOK, self._end_unawaited) if is_needed else None

    def _ended(self, task: "asyncio.Task[None]") -> None:
        del self._running[task]
        if self._opening is task:
            self._opening = None
        if self._opening is None and self._gathered:
            self._forget_timer()
            self._pace.left(len(self._gathered))
            self._arrange()

    def _later(self, seconds: float, do: Callable[[], None]) -> asyncio.TimerHandle:
        # In a context of its own: that of the call would be kept beyond the call.
        return self._loop.call_later(seconds, do, context=Context())

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _run(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checker
        group: Mapping[Waiter, Key] | None = None
        is_late = False

        def take() -> Collection[Key]:
            nonlocal group
            group = self._running[task] = self._taken()
            return set(group.values())

        def give_up() -> None:
            nonlocal is_late
            is_late = True
            task.cancel()

        # asyncio.timeout would cost a tenth of the statement.
        timer = self._loop.call_later(self._longest, give_up)
        try:
            rows = await self._read(take)
        except asyncio.CancelledError:
            if is_late:
                self._tell(StorageUnavailable(), group)
                return
            for waiter in group or ():
                waiter.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait are told
            self._tell(StorageUnavailable() if isinstance(error, TimeoutError) else error, group)
        else:
            _answer(group or {}, rows)
        finally:
            timer.cancel()

    def _taken(self) -> Mapping[Waiter, Key]:
        """Give the group that a statement is for; those who have gone are not in it."""
        self._opening = None
        waiting = [asking for asking in self._gathered.items() if not asking[0].done()]
        group, self._gathered = dict(waiting[:MOST_KEYS]), dict(waiting[MOST_KEYS:])
        self._pace.took(len(group), self._loop.time())
        return group

    def _tell(self, error: Exception, group: Mapping[Waiter, Key] | None) -> None:
        """Tell those who wait of an error; without a connection these are all that have come."""
        for waiter in self._taken() if group is None else group:
            if not waiter.done():
                waiter.set_exception(error)


def _is_awaited(group: Mapping[Waiter, Any]) -> bool:
    return any(not waiter.done() for waiter in group)


def _answer(group: Mapping[Waiter, Key], rows: Mapping[Key, Row]) -> None:
    for waiter, key in group.items():
        if not waiter.done():
            waiter.set_result(rows.get(key))
