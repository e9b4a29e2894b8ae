"""Sends users to a service and gives what became of them, over connections that may break."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from grpc import StatusCode
from grpc.aio import Metadata

from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar.auth.v1.user_service_pb2 import ImportOutcome, ImportResult, ImportUsersRequest
from tamatar_auth.cli.transfer.file_formats import InvalidRow, Row
from tamatar_auth.client import AuthClient, AuthError, BusyError, ConflictError, UnavailableError
from tamatar_auth.client.backoff import Backoff

MAX_CHUNK_USERS = 500
MAX_CHUNK_BYTES = 60 * 1024
"""What a request has, so that it is a message that the service takes."""

MAX_UNANSWERED_REQUESTS = 8
"""Requests that are sent ahead of the answers."""

RETRY_TIMEOUT = 60.0
"""Seconds for which a service may be away, unless it is told otherwise."""

MIN_BACKOFF, MAX_BACKOFF = 0.1, 5.0
"""Seconds between two streams: after the first failure, and at most."""


@dataclass(frozen=True, slots=True)
class RowResult:
    """What became of a row."""

    line: int
    outcome: str
    """CREATED, EXISTS or REFUSED."""
    user_id: str = ""
    reason: str = ""
    fields: tuple[tuple[str, str], ...] = ()


class _Chunk:
    """Rows that go together: the users in a request, the others beside it."""

    def __init__(self, *, dry_run: bool) -> None:
        self.request = ImportUsersRequest(validate_only=dry_run)
        self.rows: list[Row] = []
        self._size = 0

    def try_add(self, row: Row) -> bool:
        """Add a row if there is room for it."""
        size = 0 if isinstance(row.user, InvalidRow) else row.user.ByteSize() + 8
        is_full = len(self.rows) == MAX_CHUNK_USERS or self._size + size > MAX_CHUNK_BYTES
        if self.rows and is_full:
            return False
        self.rows.append(row)
        if not isinstance(row.user, InvalidRow):
            self._size += size
            self.request.users.append(row.user)
        return True

    def results(self, import_results: Iterable[ImportResult]) -> Iterator[RowResult]:
        """Tell what became of each row, in their order."""
        answered = iter(import_results)
        for row in self.rows:
            yield (
                invalid_row_result(row)
                if isinstance(row.user, InvalidRow)
                else _result(row.line, next(answered))
            )


def invalid_row_result(row: Row) -> RowResult:
    """Tell of a row that is no user, so that it was not sent."""
    assert isinstance(row.user, InvalidRow)  # noqa: S101 - for the type checker
    return RowResult(
        row.line, "REFUSED", reason="INVALID_ROW", fields=((row.user.field, row.user.rule),)
    )


class UserImporter:
    """Sends the rows of a file, in chunks and ahead of the answers."""

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
        self._chunks = _chunks(rows, dry_run=dry_run)
        self._patience = patience
        self._notify = notify
        # The requests are read by a thread of gRPC's.
        self._lock = threading.Lock()
        self._unanswered: deque[_Chunk] = deque()
        self._error: BaseException | None = None

    def results(self) -> Iterator[list[RowResult]]:
        """Give what became of the rows, a chunk at a time and in their order.

        Where the connection breaks, what was not answered is sent again: the service knows
        users again. Raise `AuthError` when that does not help.
        """
        failing_since: float | None = None
        backoff = Backoff(MIN_BACKOFF, MAX_BACKOFF)
        while True:
            try:
                for results in self._stream():
                    yield results
                    failing_since = None
                    backoff.reset()
            except AuthError as error:
                now = time.monotonic()
                # Not since the last answer: the input may have had nothing to ask for long.
                failing_since = failing_since or now
                if not is_transient(error) or now - failing_since >= self._patience:
                    raise
                self._notify(f"Trying again: {error}")
            else:
                return
            time.sleep(backoff.next_delay())

    def _stream(self) -> Iterator[list[RowResult]]:
        stream = _RequestStream(self)
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

    def next_chunk(self) -> _Chunk | None:
        """Take the next chunk, which counts as unanswered from now on; called under the lock."""
        try:
            chunk = next(self._chunks, None)
        except BaseException as error:  # noqa: BLE001 - told by who reads the answers
            self._error = error
            return None
        if chunk is not None:
            self._unanswered.append(chunk)
        return chunk


class _RequestStream:
    """The requests of one stream: first those that an earlier one left unanswered."""

    def __init__(self, sender: UserImporter) -> None:
        self._sender = sender
        self._resend = deque(sender._unanswered)  # noqa: SLF001 - its other half
        self._lock = sender._lock  # noqa: SLF001 - its other half
        self._closed = False
        self.capacity = threading.Semaphore(MAX_UNANSWERED_REQUESTS)

    def requests(self) -> Iterator[ImportUsersRequest]:
        """Give requests as there is room for them."""
        while True:
            self.capacity.acquire()
            with self._lock:
                if self._closed:
                    return
                chunk = self._resend.popleft() if self._resend else self._sender.next_chunk()
            if chunk is None:
                return
            yield chunk.request

    def close(self) -> None:
        """Take no more rows: nobody waits for what becomes of them."""
        with self._lock:
            self._closed = True
        self.capacity.release()


def is_transient(error: AuthError) -> bool:
    """Tell whether the same may well be answered when it is sent again."""
    # A stream on a connection that the server is about to close ends CANCELLED.
    is_passing = isinstance(error, UnavailableError | BusyError | ConflictError)
    return is_passing or error.status is StatusCode.CANCELLED


def _chunks(rows: Iterable[Row], *, dry_run: bool) -> Iterator[_Chunk]:
    chunk = _Chunk(dry_run=dry_run)
    for row in map(_checked_size, rows):
        if not chunk.try_add(row):
            yield chunk
            chunk = _Chunk(dry_run=dry_run)
            chunk.try_add(row)
    if chunk.rows:
        yield chunk


def _checked_size(row: Row) -> Row:
    if isinstance(row.user, InvalidRow) or row.user.ByteSize() < MAX_CHUNK_BYTES:
        return row
    return Row(row.line, InvalidRow("", "is too large"))


def _incomplete_stream_error() -> AuthError:
    """Give the error of a stream that ended well, though not all of it was answered."""
    message = "The stream ended before all of it was answered."
    return UnavailableError(StatusCode.UNAVAILABLE, Metadata(), Metadata(), message)


def _result(line: int, import_result: ImportResult) -> RowResult:
    # An outcome that this client does not know is no success.
    outcome = _OUTCOMES.get(import_result.outcome, "REFUSED")
    violations = tuple((rule.field, rule.description) for rule in import_result.broken_rules)
    return RowResult(line, outcome, import_result.user_id, _reason(import_result), violations)


def _reason(import_result: ImportResult) -> str:
    """Name why a user was refused, by its number where this client is older than the reason."""
    if import_result.outcome not in _OUTCOMES:
        return f"IMPORT_OUTCOME_{import_result.outcome}"
    if not import_result.reason:
        return ""
    is_known = import_result.reason in ErrorReason.values()
    return (
        ErrorReason.Name(import_result.reason)
        if is_known
        else f"ERROR_REASON_{import_result.reason}"
    )


_OUTCOMES = {
    number: name.removeprefix("IMPORT_OUTCOME_") for name, number in ImportOutcome.items() if number
}
