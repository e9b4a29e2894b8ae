"""How a process ends: asked once it drains, asked again it goes at once, and it is never late."""

import asyncio
import os
import signal
import sys
import threading
from typing import NoReturn

import structlog

from tamatar_auth.config.settings import Settings

DEADLINE_MARGIN_SECONDS = 0.9
"""How long after the last call may have ended the process goes, whatever still runs."""

log = structlog.get_logger(__name__)


class GracefulShutdown:
    """Listens to SIGTERM and SIGINT, and sees to it that the process ends in time.

    A worker is told by its supervisor, and may be told by the system, too: it takes the second
    for the first. Its supervisor kills it where there is hurry.
    """

    def __init__(self, settings: Settings, *, is_worker: bool) -> None:
        self._is_worker = is_worker
        self._requested = asyncio.Event()
        seconds = (
            settings.drain_delay + settings.shutdown_grace
        ).total_seconds() + DEADLINE_MARGIN_SECONDS
        self._deadline_timer = threading.Timer(seconds, _exit_late)
        self._deadline_timer.daemon = True

    def install_signal_handlers(self) -> None:
        """Hear the signals from now on."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._on_signal, signum)

    async def wait_until_requested(self) -> None:
        """Wait until the process shall end."""
        await self._requested.wait()

    def start_deadline(self) -> None:
        """Count from now on. A thread does: the loop itself may be held up."""
        self._deadline_timer.start()

    def cancel_deadline(self) -> None:
        """Nothing is left that could hold up the end."""
        self._deadline_timer.cancel()

    def _on_signal(self, signum: int) -> None:
        if self._requested.is_set() and not self._is_worker:
            log.warning("ended at once", signal=signal.Signals(signum).name)
            _exit(128 + signum)
        self._requested.set()


def _exit_late() -> NoReturn:
    log.error("ended late: something did not end")
    _exit(1)


def _exit(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
