"""Streams over connections that may break."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from grpc import StatusCode

from tamatar_auth.client import AuthError, BusyError, ConflictError, UnavailableError
from tamatar_auth.client.backoff import Backoff

RETRY_TIMEOUT = 60.0
"""Seconds of failures after which a transfer gives up, by default."""

_TRANSIENT = (UnavailableError, BusyError, ConflictError)

Item = TypeVar("Item")


def retry_stream(
    open_stream: Callable[[], Iterable[Item]], patience: float, notify: Callable[[str], None]
) -> Iterator[Item]:
    """Yield the items of a stream, and of the streams that replace it when it breaks.

    Raises `AuthError` if a retry cannot help, or after `patience` seconds without an item.
    """
    backoff, failing_since = Backoff(), None
    while True:
        try:
            for item in open_stream():
                yield item
                failing_since = None
                backoff.reset()
        except AuthError as error:
            # The time since the last item does not count: a slow input may have sent nothing.
            failing_since = failing_since or time.monotonic()
            # A stream on a connection that the server is about to close ends with CANCELLED.
            is_transient = isinstance(error, _TRANSIENT) or error.status is StatusCode.CANCELLED
            if not is_transient or time.monotonic() - failing_since >= patience:
                raise
            notify(f"Trying again: {error}")
        else:
            return
        time.sleep(backoff.next_delay())
