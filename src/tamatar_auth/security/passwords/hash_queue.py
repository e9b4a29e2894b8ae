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
from tamatar_auth.security.passwords.thread_pool import HashJob, HashThreadPool

Result = TypeVar("Result")
HashObserver = Callable[[HashJob[Any]], None]

_INITIAL_SECONDS = 0.25  # seconds a hash takes, until some were measured
_MEAN_WEIGHT = 0.2  # of the latest hash in their mean
_MIN_RETRY_SECONDS = 0.1  # seconds


class QueueLoad(NamedTuple):
    """How many turns are taken, and how many of them have a hash that runs or waits."""

    taken: int
    hashing: int
    waiting: int


class HashPermit:
    """The right to one hash at a time."""

    def __init__(self, threads: HashThreadPool, observe: HashObserver) -> None:
        self._threads = threads
        self._observe = observe
        self._latest: asyncio.Future[Any] | None = None
        self.was_dropped = False
        """Whether its latest hash was cancelled before a thread began it."""

    async def run(self, work: Callable[[], Result]) -> Result:
        """Return what the work returns. Cancelled before a thread began it, it never runs."""
        job = HashJob(work)
        self._threads.submit(job)
        future = asyncio.wrap_future(job.future)
        future.add_done_callback(lambda _: self._observe(job))
        # Whoever went away asks for the error no more.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._latest = future
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            self.was_dropped = self._threads.drop(job)
            raise

    def when_idle(self, release: Callable[[], None]) -> None:
        """Call back at once, or when the thread is free that still hashes for this turn."""
        if self._latest is None or self._latest.done():
            release()
        else:
            self._latest.add_done_callback(lambda _: release())


class HashQueue:
    """Gives turns, of which there are as many as threads and places before them."""

    def __init__(self, threads: int, queue: int, observe: HashObserver | None = None) -> None:
        self.capacity = threads + queue
        self._threads = HashThreadPool(threads)
        self._permits = asyncio.Semaphore(self.capacity)
        self._is_closed = False
        self._taken = 0
        self._notify_observer = observe
        self._mean_seconds = _INITIAL_SECONDS

    @property
    def load(self) -> QueueLoad:
        """What the turns are at."""
        return QueueLoad(self._taken, self._threads.hashing, self._threads.waiting)

    @contextlib.asynccontextmanager
    async def permit(self) -> AsyncIterator[HashPermit]:
        """Give a turn at once, for as long as the block, or raise `ServerBusy`."""
        if self._permits.locked():
            raise ServerBusy(self._retry_after())
        async with self.wait_for_permit() as permit:
            yield permit

    @contextlib.asynccontextmanager
    async def wait_for_permit(self) -> AsyncIterator[HashPermit]:
        """Give a turn for as long as the block, as soon as there is one."""
        await self._permits.acquire()
        if self._is_closed:
            self._permits.release()
            raise ServiceStopping
        self._taken += 1
        permit = HashPermit(self._threads, self._observe)
        try:
            yield permit
        finally:
            # A hash cannot be stopped: until it is done its thread is nobody else's.
            permit.when_idle(self._release)

    async def close(self) -> None:
        """Wait for the hashes that run, and end the threads. No turn is given after that."""
        self._is_closed = True
        await self._threads.close()

    def _release(self) -> None:
        self._taken -= 1
        self._permits.release()

    def _retry_after(self) -> float:
        """Tell in how many seconds those who have a turn now are through, or some of them.

        Callers that are refused together do not come back together.
        """
        drain_seconds = self._mean_seconds * self.capacity / self._threads.count
        return max(_MIN_RETRY_SECONDS, random.uniform(drain_seconds / 2, drain_seconds))  # noqa: S311 - jitter

    def _observe(self, done: HashJob[Any]) -> None:
        if done.started_at is None:  # it was dropped
            return
        self._mean_seconds += _MEAN_WEIGHT * (
            done.finished_at - done.started_at - self._mean_seconds
        )
        if self._notify_observer is not None:
            self._notify_observer(done)
