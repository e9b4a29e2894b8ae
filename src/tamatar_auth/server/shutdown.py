"""Graceful shutdown: one signal drains, a second exits at once, a timer enforces the deadline."""

import asyncio
import os
import signal
import sys
import threading
from typing import NoReturn

import structlog

from tamatar_auth.config.settings import Settings

DEADLINE_MARGIN_SECONDS = 0.9
"""Seconds from the end of the grace period to the exit, whatever still runs."""

log = structlog.get_logger(__name__)


class ReportedCrashError(Exception):
    """The process ends because of an exception that was logged already."""


class GracefulShutdown:
    """Handles SIGTERM and SIGINT, and exits if the shutdown takes too long.

    A worker ignores the second signal: its supervisor and the system may both send the first.
    Its supervisor kills it if a worker must exit at once.
    """

    def __init__(self, settings: Settings, *, is_worker: bool) -> None:
        self._is_worker = is_worker
        self.requested = asyncio.Event()
        seconds = (
            settings.drain_delay + settings.shutdown_grace
        ).total_seconds() + DEADLINE_MARGIN_SECONDS
        self._deadline_timer = threading.Timer(seconds, _exit_late)
        self._deadline_timer.daemon = True

    def install_signal_handlers(self) -> None:
        """Handle SIGTERM and SIGINT from now on."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._on_signal, signum)

    def start_deadline(self) -> None:
        """Start the timer of the deadline: a thread, because the event loop may be blocked."""
        self._deadline_timer.start()

    def cancel_deadline(self) -> None:
        """Stop the timer: nothing is left that could delay the exit."""
        self._deadline_timer.cancel()

    def _on_signal(self, signum: int) -> None:
        if self.requested.is_set() and not self._is_worker:
            log.warning("ended at once", signal=signal.Signals(signum).name)
            _exit(128 + signum)
        self.requested.set()


def _exit_late() -> NoReturn:
    log.error("ended late: something did not end")
    _exit(1)


def _exit(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
