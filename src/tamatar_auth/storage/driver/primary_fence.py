"""The fence of a process against a deposed primary.

It is closed once a statement has found that the primary is not confirmed, and opened again by the
check of the database. `tamatar_auth.storage.acknowledgement` explains the proof.
"""

import asyncio
from collections.abc import Callable
from time import monotonic

import structlog

from tamatar_auth.errors.storage import PrimaryNotConfirmed
from tamatar_auth.storage.driver.liveness import FailureDetector

log = structlog.get_logger(__name__)


class PrimaryFence:
    """Keeps validations and writes away from a primary that is not confirmed."""

    def __init__(self, failure_detector: FailureDetector) -> None:
        self._failure_detector = failure_detector
        self._callbacks: list[Callable[[], None]] = []
        self.closed = asyncio.Event()
        """Set while the fence is closed."""

    def on_close(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever the fence is closed."""
        self._callbacks.append(callback)

    def close(self) -> None:
        """Drop all connections: each may lead to a deposed primary."""
        if self.closed.is_set():
            return
        self.closed.set()
        log.warning("primary is not confirmed")
        self._failure_detector.report_silence(monotonic())
        for callback in self._callbacks:
            callback()

    def open(self) -> None:
        """Accept validations and writes again, on new connections."""
        if self.closed.is_set():
            self.closed.clear()
            log.info("primary is confirmed")
            # Connections that were opened meanwhile may lead to another server.
            self._failure_detector.report_silence(monotonic())

    def require_open(self) -> None:
        """Raise `PrimaryNotConfirmed` while the fence is closed."""
        if self.closed.is_set():
            raise PrimaryNotConfirmed
