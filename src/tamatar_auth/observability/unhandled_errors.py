"""The policy for exceptions that no code handles: each is one log line, and is counted.

After an exception in a callback or a thread the state of the process is unknown, so the process
ends with exit code 1. A task or a destructor that fails affects only its own work.
"""

import asyncio
import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from types import TracebackType
from typing import Any

import structlog
from opentelemetry.metrics import Meter, Observation

from tamatar_auth.observability import semconv
from tamatar_auth.observability.instruments import observe_counter

GRPC_LOGGER = "grpc._cython.cygrpc"

TELEMETRY_THREADS = ("metrics", "close telemetry", "Otel")
"""The names of threads, or their beginnings, without which calls are still answered."""

log = structlog.get_logger(__name__)


class Origin(Enum):
    """Where an exception was raised."""

    CALLBACK = "callback"
    TASK = "task"
    THREAD = "thread"
    DESTRUCTOR = "destructor"


class UnhandledErrors:
    """Logs and counts the exceptions that reach the hooks of Python and of the event loop.

    `expected` are the exceptions that clients cause when they leave. They are only counted.
    """

    def __init__(self, expected: tuple[type[Exception], ...] = ()) -> None:
        self.counts = dict.fromkeys(Origin, 0)
        self.expected_count = 0
        self._expected = expected
        self.has_crashed = False
        """Whether the process must end with exit code 1."""
        self._stop: Callable[[], None] = lambda: None

    def install(self) -> None:
        """Set the hooks of the interpreter and of grpc's log, for the rest of the process."""
        sys.excepthook = _on_crash
        sys.unraisablehook = self._on_unraisable
        threading.excepthook = self._on_thread_error
        logging.getLogger(GRPC_LOGGER).addFilter(self._is_unexpected)

    def watch(self, loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
        """Set the handler of an event loop; call `stop` there when the process must end."""

        def stop_soon() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(stop)

        self._stop = stop_soon
        loop.set_exception_handler(self._on_loop_error)

    def register_metrics(self, meter: Meter) -> None:
        """Register the counts."""

        def read() -> Iterable[Observation]:
            for origin, count in self.counts.items():
                yield Observation(count, {semconv.ERROR_ORIGIN: origin.value})

        observe_counter(
            meter,
            semconv.UNHANDLED_ERRORS,
            read,
            unit="{error}",
            description="The exceptions that no code handled.",
        )
        observe_counter(
            meter,
            semconv.UNDELIVERED,
            lambda: self.expected_count,
            unit="{message}",
            description="The responses whose clients had left.",
        )

    def _on_loop_error(self, _loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        error = context.get("exception")
        if "handle" in context:  # the message of asyncio would show the arguments
            self._report(Origin.CALLBACK, error, is_fatal=True)
        else:
            self._report(Origin.TASK, error, is_fatal=False, what=context["message"])

    def _on_thread_error(self, failed: threading.ExceptHookArgs) -> None:
        name = failed.thread.name if failed.thread else ""
        is_fatal = not name.startswith(TELEMETRY_THREADS)
        self._report(Origin.THREAD, failed.exc_value, is_fatal=is_fatal, thread=name)

    def _on_unraisable(self, failed: "sys.UnraisableHookArgs") -> None:
        what = getattr(failed.object, "__qualname__", type(failed.object).__qualname__)
        self._report(Origin.DESTRUCTOR, failed.exc_value, is_fatal=False, what=what)

    def _report(
        self, origin: Origin, error: BaseException | None, *, is_fatal: bool, **fields: str
    ) -> None:
        if self._is_expected(error):
            return
        self.counts[origin] += 1
        if is_fatal and self.has_crashed:
            return  # a reader that fails does so again and again until the process has ended
        level = logging.CRITICAL if is_fatal else logging.ERROR
        log.log(level, "unhandled exception", origin=origin.value, exc_info=error, **fields)
        if is_fatal:
            self.has_crashed = True
            self._stop()

    def _is_unexpected(self, record: logging.LogRecord) -> bool:
        return not self._is_expected(record.exc_info[1] if record.exc_info else None)

    def _is_expected(self, error: BaseException | None) -> bool:
        """Count an exception that a client causes by leaving; return False for any other."""
        is_expected = isinstance(error, self._expected)
        self.expected_count += is_expected
        return is_expected


def _on_crash(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Log the exception that ends the process."""
    if issubclass(kind, Exception):
        log.critical("crashed", exc_info=error)
    else:
        sys.__excepthook__(kind, error, traceback)
