"""The threads that hash: few, of low priority, with a queue that drops cancelled work."""

import asyncio
import contextlib
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from time import perf_counter
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")

_NICENESS = 10


class HashJob(Generic[Result]):
    """One piece of work for a thread."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self._work = work
        # Log lines on the thread need it to name the trace and the caller.
        self._context = copy_context()
        self.future: Future[Result] = Future()
        self.queued_at = perf_counter()
        self.started_at: float | None = None
        self.finished_at = 0.0

    def run(self) -> None:
        """Do the work on the calling thread and set the result."""
        self.started_at = perf_counter()
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self._context.run(self._work)
        except BaseException as error:  # noqa: BLE001 - raised where the future is awaited
            self.finished_at = perf_counter()
            self.future.set_exception(error)
        else:
            self.finished_at = perf_counter()
            self.future.set_result(result)


class HashThreadPool:
    """The threads and the hashes that wait for them. The threads live until `close`."""

    def __init__(self, count: int) -> None:
        self.count = count
        # An executor, because the interpreter joins its threads at exit. A daemon thread that
        # is still inside bcrypt at exit would crash the process.
        self._threads = ThreadPoolExecutor(count, "hash", initializer=_lower_priority)
        # Not the executor's own queue: it keeps cancelled work until a thread takes it.
        self._waiting: deque[HashJob[Any]] = deque()
        self._lock = threading.Lock()
        self.hashing = 0
        """The number of threads that hash now."""

    @property
    def waiting(self) -> int:
        """The number of hashes that wait for a thread."""
        return len(self._waiting)

    def submit(self, work: HashJob[Any]) -> None:
        """Queue work for the next free thread."""
        with self._lock:
            self._waiting.append(work)
            has_idle_thread = self.hashing < self.count
            self.hashing += has_idle_thread
        if has_idle_thread:
            self._threads.submit(self._run_jobs)

    def drop(self, work: HashJob[Any]) -> bool:
        """Remove work that has not started; return whether it was removed."""
        with self._lock:
            if work not in self._waiting:
                return False
            self._waiting.remove(work)
            work.future.cancel()
            return True

    async def close(self) -> None:
        """Wait for the queued and running work, and stop the threads."""
        await asyncio.to_thread(self._threads.shutdown)

    def _run_jobs(self) -> None:
        try:
            while (work := self._next_job()) is not None:
                work.run()
        except BaseException:
            # The executor would keep it, and this thread would count as hashing for ever.
            threading.excepthook(
                threading.ExceptHookArgs([*sys.exc_info(), threading.current_thread()])
            )
            raise

    def _next_job(self) -> HashJob[Any] | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self.hashing -= 1
            return None


def _lower_priority() -> None:
    """Lower the priority of the calling thread, on Linux only."""
    if sys.platform != "linux":
        return
    thread = threading.get_native_id()
    with contextlib.suppress(OSError):
        niceness = os.getpriority(os.PRIO_PROCESS, thread) + _NICENESS
        os.setpriority(os.PRIO_PROCESS, thread, niceness)
