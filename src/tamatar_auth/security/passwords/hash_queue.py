"""A bounded queue in front of the threads that hash passwords.

A hash takes about a quarter of a second of a core, so few threads hash. A call takes a permit
before it hashes, and a permit runs one hash at a time. The number of permits is the number of
threads plus the length of the queue, so the threads never have more work than that.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeVar

from opentelemetry.metrics import Histogram, Meter, Observation

from tamatar_auth.errors import ServerBusy, ServiceStopping
from tamatar_auth.observability import semconv
from tamatar_auth.observability.instruments import observe_gauge
from tamatar_auth.security.passwords.thread_pool import HashJob, HashThreadPool

Result = TypeVar("Result")
HashObserver = Callable[[HashJob[Any]], None]

_INITIAL_SECONDS = 0.25  # the assumed duration of a hash, until one was measured
_MEAN_WEIGHT = 0.2  # the weight of the latest hash in the moving average
_MIN_RETRY_SECONDS = 0.1


class QueueLoad(NamedTuple):
    """The permits in use, and how many of them have a hash that runs or waits."""

    taken: int
    hashing: int
    waiting: int


class HashPermit:
    """The right to one hash at a time."""

    def __init__(self, threads: HashThreadPool, observe: HashObserver) -> None:
        self._threads = threads
        self._observe = observe
        self._latest: asyncio.Future[Any] | None = None
        self._latest_job: HashJob[Any] | None = None

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run work on a thread and return its result.

        Work that is cancelled before it starts never runs.
        """
        job = HashJob(work)
        self._threads.submit(job)
        future = asyncio.wrap_future(job.future)
        future.add_done_callback(lambda _: self._observe(job))
        # Mark the error as retrieved, because a cancelled call never awaits it.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._latest, self._latest_job = future, job
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            self.drop()
            raise

    def drop(self) -> None:
        """Cancel the latest work if no thread has started it."""
        if self._latest_job is not None:
            self._threads.drop(self._latest_job)

    def when_idle(self, release: Callable[[], None]) -> None:
        """Call `release` at once, or when the running hash of this permit is done."""
        if self._latest is None or self._latest.done():
            release()
        else:
            self._latest.add_done_callback(lambda _: release())


class HashQueue:
    """Hands out permits: one for each thread and for each place in the queue."""

    def __init__(self, threads: int, queue: int, observe: HashObserver | None = None) -> None:
        self.capacity = threads + queue
        self._threads = HashThreadPool(threads)
        self._permits = asyncio.Semaphore(self.capacity)
        self._is_closed = False
        self._taken = self._idle = 0
        self._notify_observer = observe
        self._mean_seconds = _INITIAL_SECONDS

    @property
    def load(self) -> QueueLoad:
        """The current use of the permits."""
        return QueueLoad(self._taken, self._threads.hashing, self._threads.waiting)

    @contextlib.asynccontextmanager
    async def permit(self, *, wait: bool = False) -> AsyncIterator[HashPermit]:
        """Hold a permit during the block. If none is free, wait or raise `ServerBusy`."""
        if self._permits.locked() and not wait:
            raise ServerBusy(self._retry_after())
        await self._permits.acquire()
        if self._is_closed:
            self._permits.release()
            raise ServiceStopping
        self._taken += 1
        permit = HashPermit(self._threads, self._observe)
        try:
            yield permit
        finally:
            # A running hash cannot be stopped, so its thread stays occupied until it is done.
            permit.when_idle(self._release)

    @contextlib.contextmanager
    def idle(self) -> Iterator[None]:
        """Count a permit as idle during the block.

        Raise `ServerBusy` if half of the permits are idle: the others are for calls that hash.
        """
        if self._idle >= max(1, self.capacity // 2):
            raise ServerBusy(self._retry_after())
        self._idle += 1
        try:
            yield
        finally:
            self._idle -= 1

    async def close(self) -> None:
        """Wait for the running hashes and stop the threads. No permit is given after that."""
        self._is_closed = True
        await self._threads.close()

    def _release(self) -> None:
        self._taken -= 1
        self._permits.release()

    def _retry_after(self) -> float:
        """Return the seconds in which all current permits, or up to half of them, are done.

        The jitter keeps callers that were rejected together from returning together.
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


def hash_recorder(meter: Meter) -> HashObserver:
    """Return a function that records how long a hash waited and how long it took."""
    waits = _histogram(meter, semconv.HASH_WAIT, "How long hashes waited for a thread.")
    durations = _histogram(meter, semconv.HASH_DURATION, "How long hashes took on their thread.")

    def observe(job: HashJob[Any]) -> None:
        if job.started_at is not None:
            waits.record(job.started_at - job.queued_at)
            durations.record(job.finished_at - job.started_at)

    return observe


def observe_permits(hash_queue: HashQueue, meter: Meter) -> None:
    """Register the permits of a queue: those in use, by state, and their limit."""

    def count() -> Iterable[Observation]:
        load = hash_queue.load
        others = max(0, load.taken - load.hashing - load.waiting)
        yield Observation(load.hashing, {semconv.HASH_PERMIT_STATE: "hashing"})
        yield Observation(load.waiting, {semconv.HASH_PERMIT_STATE: "waiting"})
        yield Observation(others, {semconv.HASH_PERMIT_STATE: "other"})

    observe = partial(observe_gauge, meter, unit="{turn}")
    observe(semconv.HASH_PERMIT_COUNT, count, description="The permits to hash that calls hold.")
    limit = "The permits to hash that exist."
    observe(semconv.HASH_PERMIT_MAX, lambda: hash_queue.capacity, description=limit)


def _histogram(meter: Meter, name: str, description: str) -> Histogram:
    return meter.create_histogram(
        name,
        unit="s",
        description=description,
        explicit_bucket_boundaries_advisory=semconv.HASH_SECONDS,
    )
