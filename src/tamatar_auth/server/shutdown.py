"""How a process ends: asked once it drains, asked again it goes at once, and it is never late."""

import asyncio
import os
import signal
import sys
import threading
from typing import NoReturn

import structlog

from tamatar_auth.config.settings import Settings

LATE_SECONDS = 0.9
"""How long after the last call may have ended the process goes, whatever still runs."""

log = structlog.get_logger(__name__)


class Ending:
    """Listens to SIGTERM and SIGINT, and sees to it that the process ends in time.

    A worker is told by its supervisor, and may be told by the system, too: it takes the second
    for the first. Its supervisor kills it where there is hurry.
    """

    def __init__(self, settings: Settings, *, is_worker: bool) -> None:
        self._is_worker = is_worker
        self._asked = asyncio.Event()
        seconds = (settings.drain_delay + settings.shutdown_grace).total_seconds() + LATE_SECONDS
        self._late = threading.Timer(seconds, _end_late)
        self._late.daemon = True

    def listen(self) -> None:
        """Hear the signals from now on."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._ask, signum)

    async def asked(self) -> None:
        """Wait until the process shall end."""
        await self._asked.wait()

    def begin(self) -> None:
        """Count from now on. A thread does: the loop itself may be held up."""
        self._late.start()

    def over(self) -> None:
        """Nothing is left that could hold up the end."""
        self._late.cancel()

    def _ask(self, signum: int) -> None:
        if self._asked.is_set() and not self._is_worker:
            log.warning("ended at once", signal=signal.Signals(signum).name)
            _exit(128 + signum)
        self._asked.set()


def _end_late() -> NoReturn:
    log.error("ended late: something did not end")
    _exit(1)


def _exit(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
