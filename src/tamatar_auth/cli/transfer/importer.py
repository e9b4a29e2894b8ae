"""Sends users to a service and yields their results, over connections that may break."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from grpc import StatusCode
from grpc.aio import Metadata

from tamatar.auth.v1.user_service_pb2 import ImportUsersRequest
from tamatar_auth.cli.transfer.chunks import Chunk, RowResult, chunks
from tamatar_auth.cli.transfer.file_formats import Row
from tamatar_auth.cli.transfer.retries import RETRY_TIMEOUT, retry_stream
from tamatar_auth.client import AuthClient, AuthError, UnavailableError

MAX_UNANSWERED_REQUESTS = 8
"""Requests that are in flight at once."""


def check_access(auth: AuthClient, notify: Callable[[str], None], patience: float) -> None:
    """Raise `AuthError` unless this caller may import. No user is sent."""
    for _ in retry_stream(lambda: auth.users.ImportUsers(iter(())), patience, notify):
        pass


class UserImporter:
    """Sends the rows of a file in chunks, without waiting for the answer to each."""

    def __init__(self, auth: AuthClient, rows: Iterable[Row], *, dry_run: bool = False) -> None:
        self._auth = auth
        self._chunks = chunks(rows, dry_run=dry_run)
        # A thread of gRPC reads the requests.
        self._lock = threading.Lock()
        self._unanswered: deque[Chunk] = deque()
        self._error: BaseException | None = None

    def results(
        self, notify: Callable[[str], None], patience: float = RETRY_TIMEOUT
    ) -> Iterator[list[RowResult]]:
        """Yield the results of the rows, chunk by chunk and in order.

        After a broken connection the unanswered chunks are sent again. That is safe, because
        the service recognizes users that it has imported. Raises `AuthError` when retries do not
        help.
        """
        return retry_stream(self._stream, patience, notify)

    def _stream(self) -> Iterator[list[RowResult]]:
        capacity, closed = threading.Semaphore(MAX_UNANSWERED_REQUESTS), threading.Event()
        requests = self._requests(deque(self._unanswered), capacity, closed)
        call: Any = self._auth.users.ImportUsers(requests)
        try:
            for response in call:
                chunk = self._unanswered.popleft()
                capacity.release()
                yield list(chunk.results(response.results))
        except AuthError:
            if self._error is None:
                raise
        except KeyboardInterrupt:
            # The thread that reads may wait for input, and holds the lock until then.
            self._lock = threading.Lock()
            raise
        finally:
            with self._lock:  # take no more rows, because no answer to them will be read
                closed.set()
            capacity.release()
            call.cancel()
        if self._error is not None:
            raise self._error
        if self._unanswered:
            message = "The stream ended before all of it was answered."
            raise UnavailableError(StatusCode.UNAVAILABLE, Metadata(), Metadata(), message)

    def _requests(
        self, resend: deque[Chunk], capacity: threading.Semaphore, closed: threading.Event
    ) -> Iterator[ImportUsersRequest]:
        """Yield requests while there is capacity. Those of the chunks to resend come first."""
        while True:
            capacity.acquire()
            with self._lock:
                if closed.is_set():
                    return
                chunk = resend.popleft() if resend else self._next_chunk()
            if chunk is None:
                return
            yield chunk.request

    def _next_chunk(self) -> Chunk | None:
        """Return the next chunk, which then counts as unanswered. Called under the lock."""
        try:
            chunk = next(self._chunks, None)
        except BaseException as error:  # noqa: BLE001 - `_stream` raises it in its own thread
            self._error = error
            return None
        if chunk is not None:
            self._unanswered.append(chunk)
        return chunk
