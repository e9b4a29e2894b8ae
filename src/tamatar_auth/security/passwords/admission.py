"""Turns: who may have a password hashed.

A hash burns a core for about a quarter of a second. So few threads hash, and whoever wants a
hash takes a turn first. The turns are bounded: as many as there are threads, and as many as may
wait for one. Hashing needs a turn, and a turn has one hash at a time, so the queue before the
threads is never longer than the turns.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple, TypeVar

from tamatar_auth.errors import ServerBusy, ServiceStopping
from tamatar_auth.security.passwords.thread_pool import Hash, HashThreads

Result = TypeVar("Result")
Observe = Callable[[Hash[Any]], None]

_FIRST_GUESS = 0.25  # seconds a hash takes, until some were measured
_WEIGHT = 0.2  # of the latest hash in their mean
_LEAST_WAIT = 0.1  # seconds


class Load(NamedTuple):
    """How many turns are taken, and how many of them have a hash that runs or waits."""

    taken: int
    hashing: int
    waiting: int


class Turn:
    """The right to one hash at a time."""

    def __init__(self, threads: HashThreads, observe: Observe) -> None:
        self._threads = threads
        self._observe = observe
        self._latest: asyncio.Future[Any] | None = None
        self.was_dropped = False
        """Whether its latest hash was cancelled before a thread began it."""

    async def run(self, work: Callable[[], Result]) -> Result:
        """Return what the work returns. Cancelled before a thread began it, it never runs."""
        asked = Hash(work)
        self._threads.put(asked)
        outcome = asyncio.wrap_future(asked.outcome)
        outcome.add_done_callback(lambda _: self._observe(asked))
        # Whoever went away asks for the error no more.
        outcome.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._latest = outcome
        try:
            return await asyncio.shield(outcome)
        except asyncio.CancelledError:
            self.was_dropped = self._threads.drop(asked)
            raise

    def when_over(self, give_back: Callable[[], None]) -> None:
        """Call back at once, or when the thread is free that still hashes for this turn."""
        if self._latest is None or self._latest.done():
            give_back()
        else:
            self._latest.add_done_callback(lambda _: give_back())


class HashTurns:
    """Gives turns, of which there are as many as threads and places before them."""

    def __init__(self, threads: int, queue: int, observe: Observe | None = None) -> None:
        self.most = threads + queue
        self._threads = HashThreads(threads)
        self._free = asyncio.Semaphore(self.most)
        self._is_closed = False
        self._taken = 0
        self._tell = observe
        self._mean = _FIRST_GUESS

    @property
    def load(self) -> Load:
        """What the turns are at."""
        return Load(self._taken, self._threads.working, self._threads.waiting)

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[Turn]:
        """Give a turn at once, for as long as the block, or raise `ServerBusy`."""
        if self._free.locked():
            raise ServerBusy(self._wait())
        async with self.turn_in_time() as turn:
            yield turn

    @contextlib.asynccontextmanager
    async def turn_in_time(self) -> AsyncIterator[Turn]:
        """Give a turn for as long as the block, as soon as there is one."""
        await self._free.acquire()
        if self._is_closed:
            self._free.release()
            raise ServiceStopping
        self._taken += 1
        turn = Turn(self._threads, self._observe)
        try:
            yield turn
        finally:
            # A hash cannot be stopped: until it is done its thread is nobody else's.
            turn.when_over(self._give_back)

    async def close(self) -> None:
        """Wait for the hashes that run, and end the threads. No turn is given after that."""
        self._is_closed = True
        await self._threads.close()

    def _give_back(self) -> None:
        self._taken -= 1
        self._free.release()

    def _wait(self) -> float:
        """Tell in how many seconds those who have a turn now are through, or some of them.

        Callers that are refused together do not come back together.
        """
        all_through = self._mean * self.most / self._threads.count
        return max(_LEAST_WAIT, random.uniform(all_through / 2, all_through))  # noqa: S311 - jitter

    def _observe(self, done: Hash[Any]) -> None:
        if done.began is None:  # it was dropped
            return
        self._mean += _WEIGHT * (done.ended - done.began - self._mean)
        if self._tell is not None:
            self._tell(done)
