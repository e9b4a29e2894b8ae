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
from tamatar_auth.cli.transfer.retries import RETRY_TIMEOUT, StreamRetries
from tamatar_auth.client import AuthClient, AuthError, UnavailableError

MAX_UNANSWERED_REQUESTS = 8
"""Requests that are in flight at once."""


class UserImporter:
    """Sends the rows of a file in chunks, without waiting for the answer to each."""

    def __init__(
        self,
        auth: AuthClient,
        rows: Iterable[Row],
        *,
        dry_run: bool = False,
        patience: float = RETRY_TIMEOUT,
        notify: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._auth = auth
        self._chunks = chunks(rows, dry_run=dry_run)
        self._retries = StreamRetries(patience, notify)
        # A thread of gRPC reads the requests.
        self._lock = threading.Lock()
        self._unanswered: deque[Chunk] = deque()
        self._error: BaseException | None = None

    def results(self) -> Iterator[list[RowResult]]:
        """Yield the results of the rows, chunk by chunk and in order.

        After a broken connection the unanswered chunks are sent again. That is safe, because
        the service recognizes users that it has imported. Raises `AuthError` when retries do not
        help.
        """
        while True:
            try:
                for results in self._stream():
                    yield results
                    self._retries.succeeded()
            except AuthError as error:
                self._retries.wait(error)
            else:
                return

    def _stream(self) -> Iterator[list[RowResult]]:
        stream = _RequestStream(self._unanswered, self._next_chunk, self._lock)
        call: Any = self._auth.users.ImportUsers(stream.requests())
        try:
            for response in call:
                chunk = self._unanswered.popleft()
                stream.capacity.release()
                yield list(chunk.results(response.results))
        except AuthError:
            if self._error is None:
                raise
        finally:
            stream.close()
            call.cancel()
        if self._error is not None:
            raise self._error
        if self._unanswered:
            raise _incomplete_stream_error()

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


class _RequestStream:
    """The requests of one stream. Those that an earlier stream left unanswered come first."""

    def __init__(
        self,
        unanswered: Iterable[Chunk],
        next_chunk: Callable[[], Chunk | None],
        lock: threading.Lock,
    ) -> None:
        self._resend = deque(unanswered)
        self._next_chunk = next_chunk
        self._lock = lock
        self._closed = False
        self.capacity = threading.Semaphore(MAX_UNANSWERED_REQUESTS)

    def requests(self) -> Iterator[ImportUsersRequest]:
        """Yield requests, each as soon as there is capacity for it."""
        while True:
            self.capacity.acquire()
            with self._lock:
                if self._closed:
                    return
                chunk = self._resend.popleft() if self._resend else self._next_chunk()
            if chunk is None:
                return
            yield chunk.request

    def close(self) -> None:
        """Take no more rows, because no answer to them will be read."""
        with self._lock:
            self._closed = True
        self.capacity.release()


def _incomplete_stream_error() -> AuthError:
    """Return the error of a stream that ended with OK before every request was answered."""
    message = "The stream ended before all of it was answered."
    return UnavailableError(StatusCode.UNAVAILABLE, Metadata(), Metadata(), message)
