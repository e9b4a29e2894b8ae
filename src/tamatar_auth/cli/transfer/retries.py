"""When a stream that failed is opened again."""

import time
from collections.abc import Callable

from grpc import StatusCode

from tamatar_auth.client import AuthError, BusyError, ConflictError, UnavailableError
from tamatar_auth.client.backoff import Backoff

RETRY_TIMEOUT = 60.0
"""Seconds of failures after which a transfer gives up, by default."""


class StreamRetries:
    """Waits before each retry, and gives up after `patience` seconds without a success."""

    def __init__(self, patience: float, notify: Callable[[str], None]) -> None:
        self._patience = patience
        self._notify = notify
        self._backoff = Backoff()
        self._failing_since: float | None = None

    def succeeded(self) -> None:
        """Record that the service answered."""
        self._failing_since = None
        self._backoff.reset()

    def wait(self, error: AuthError) -> None:
        """Wait before the next attempt; raise the error if a retry cannot help or time is up."""
        now = time.monotonic()
        # The time since the last answer does not count: a slow input may have sent nothing.
        self._failing_since = self._failing_since or now
        if not _is_transient(error) or now - self._failing_since >= self._patience:
            raise error
        self._notify(f"Trying again: {error}")
        time.sleep(self._backoff.next_delay())


def _is_transient(error: AuthError) -> bool:
    # A stream on a connection that the server is about to close ends with CANCELLED.
    is_passing = isinstance(error, UnavailableError | BusyError | ConflictError)
    return is_passing or error.status is StatusCode.CANCELLED
