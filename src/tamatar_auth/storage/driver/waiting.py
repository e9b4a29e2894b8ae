"""Waiting for what PostgreSQL answers.

psycopg wakes the task that waits for each part of an answer, and begins to listen anew. Here the
parts are taken as they come, and the task goes on when it has all of them: a statement costs the
event loop less, and one with a long answer much less.
"""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.waiting import READY_NONE, READY_R, READY_W, WAIT_R, WAIT_W

Result = TypeVar("Result")


async def wait_for_result(
    gen: PQGen[Result], state: int, socket: int, interval: float, on_idle: Callable[[], None]
) -> Result:
    """Go on with what psycopg does to have a statement answered, and return its outcome.

    `state` is what it waits for first. Whenever nothing was heard for an interval, of so many
    seconds, `on_idle` is called, and may raise.
    """
    waiter = _ResultWaiter(gen, socket, on_idle)
    try:
        waiter.begin(state, interval)
        return await waiter.outcome
    except OSError as error:
        raise psycopg.OperationalError("the socket of the connection is closed") from error
    finally:
        waiter.end()
        del waiter.outcome  # an error in it would keep the answer, and be kept by it


class _ResultWaiter(Generic[Result]):
    """An answer that comes in parts."""

    def __init__(self, gen: PQGen[Result], socket: int, on_idle: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self.outcome: asyncio.Future[Result] = self._loop.create_future()
        self._gen, self._socket, self._on_idle = gen, socket, on_idle
        self._state = 0
        self._was_active = False

    def begin(self, state: int, interval: float) -> None:
        """Listen for the first part."""
        self._timer = self._loop.call_later(interval, self._on_interval, interval)
        self._listen(state)

    def end(self) -> None:
        """Listen no more."""
        self._timer.cancel()
        self._listen(0)

    def _listen(self, state: int) -> None:
        changed, self._state = state ^ self._state, state
        if changed & WAIT_R:
            if state & WAIT_R:
                self._loop.add_reader(self._socket, self._advance, READY_R)
            else:
                self._loop.remove_reader(self._socket)
        if changed & WAIT_W:
            if state & WAIT_W:
                self._loop.add_writer(self._socket, self._advance, READY_W)
            else:
                self._loop.remove_writer(self._socket)

    def _advance(self, ready: int) -> None:
        if self.outcome.done():  # whoever waited has gone
            return
        self._was_active = bool(ready)
        try:
            self._listen(self._gen.send(ready))
        except StopIteration as end:
            self.outcome.set_result(end.value)
            self.end()
        except Exception as error:  # noqa: BLE001 - whatever it is, who waits is told
            self.outcome.set_exception(error)
            self.end()

    def _on_interval(self, interval: float) -> None:
        self._timer = self._loop.call_later(interval, self._on_interval, interval)
        if self._was_active:
            self._was_active = False
            return
        try:
            self._on_idle()
        except Exception as error:  # noqa: BLE001 - as above
            if not self.outcome.done():
                self.outcome.set_exception(error)
            self.end()
        else:
            self._advance(READY_NONE)
