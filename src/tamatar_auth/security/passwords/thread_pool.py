"""The threads that hash: few, of low priority, and with a queue that forgets who went away."""

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


class Hash(Generic[Result]):
    """One piece of work for a thread."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self._work = work
        # With it log lines on the thread name the trace and the caller.
        self._context = copy_context()
        self.outcome: Future[Result] = Future()
        self.asked = perf_counter()
        self.began: float | None = None
        self.ended = 0.0

    def run(self) -> None:
        """Do the work, on the thread that calls this."""
        self.began = perf_counter()
        if not self.outcome.set_running_or_notify_cancel():
            return
        try:
            result = self._context.run(self._work)
        except BaseException as error:  # noqa: BLE001 - whoever waits is told
            self.ended = perf_counter()
            self.outcome.set_exception(error)
        else:
            self.ended = perf_counter()
            self.outcome.set_result(result)


class HashThreads:
    """The threads, and the hashes that wait for one. They live until `close`."""

    def __init__(self, count: int) -> None:
        self.count = count
        # Its threads are waited for when the interpreter exits: one that ended within bcrypt
        # would bring the process down.
        self._threads = ThreadPoolExecutor(count, "hash", initializer=_give_way)
        # Not the executor's own queue: that keeps what was cancelled until its turn comes.
        self._waiting: deque[Hash[Any]] = deque()
        self._lock = threading.Lock()
        self._working = 0

    @property
    def working(self) -> int:
        """How many threads hash."""
        return self._working

    @property
    def waiting(self) -> int:
        """How many hashes wait for a thread."""
        return len(self._waiting)

    def put(self, work: Hash[Any]) -> None:
        """Let a thread do the work as soon as one is free."""
        with self._lock:
            self._waiting.append(work)
            rests = self._working < self.count
            self._working += rests
        if rests:
            self._threads.submit(self._work_off)

    def drop(self, work: Hash[Any]) -> bool:
        """Forget the work if it has not begun, and tell whether that was so."""
        with self._lock:
            if work not in self._waiting:
                return False
            self._waiting.remove(work)
            work.outcome.cancel()
            return True

    async def close(self) -> None:
        """Wait for what runs, and end the threads."""
        await asyncio.to_thread(self._threads.shutdown)

    def _work_off(self) -> None:
        while (work := self._next()) is not None:
            work.run()

    def _next(self) -> Hash[Any] | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._working -= 1
            return None


def _give_way() -> None:
    """Lower the priority of the thread that calls this, where threads have their own."""
    if sys.platform != "linux":
        return
    thread = threading.get_native_id()
    with contextlib.suppress(OSError):
        niceness = os.getpriority(os.PRIO_PROCESS, thread) + _NICENESS
        os.setpriority(os.PRIO_PROCESS, thread, niceness)
