"""Sends users to a service and gives what became of them, over connections that may break."""

import random
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
from tamatar_auth.cli.transfer.file_formats import BadRow, Row
from tamatar_auth.client import AuthClient, AuthError, BusyError, ConflictError, UnavailableError

MOST_USERS = 500
MOST_BYTES = 60 * 1024
"""What a request has, so that it is a message that the service takes."""

IN_FLIGHT = 8
"""Requests that are sent ahead of the answers."""

PATIENCE = 60.0
"""Seconds for which a service may be away, unless it is told otherwise."""

LONGEST_WAIT = 5.0


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a row."""

    line: int
    word: str
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

    def takes(self, row: Row) -> bool:
        """Add a row if there is room for it."""
        size = 0 if isinstance(row.user, BadRow) else row.user.ByteSize() + 8
        full = len(self.rows) == MOST_USERS or self._size + size > MOST_BYTES
        if self.rows and full:
            return False
        self.rows.append(row)
        if not isinstance(row.user, BadRow):
            self._size += size
            self.request.users.append(row.user)
        return True

    def results(self, answered: Iterable[ImportResult]) -> Iterator[Result]:
        """Tell what became of each row, in their order."""
        said = iter(answered)
        for row in self.rows:
            yield refused(row) if isinstance(row.user, BadRow) else _result(row.line, next(said))


def refused(row: Row) -> Result:
    """Tell of a row that is no user, so that it was not sent."""
    assert isinstance(row.user, BadRow)  # noqa: S101 - for the type checker
    return Result(
        row.line, "REFUSED", reason="INVALID_ROW", fields=((row.user.field, row.user.rule),)
    )


class Sender:
    """Sends the rows of a file, in chunks and ahead of the answers."""

    def __init__(
        self,
        auth: AuthClient,
        rows: Iterable[Row],
        *,
        dry_run: bool = False,
        patience: float = PATIENCE,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._auth = auth
        self._chunks = _chunks(rows, dry_run=dry_run)
        self._patience = patience
        self._say = say
        # The requests are read by a thread of gRPC's.
        self._lock = threading.Lock()
        self._unanswered: deque[_Chunk] = deque()
        self._error: BaseException | None = None

    def results(self) -> Iterator[list[Result]]:
        """Give what became of the rows, a chunk at a time and in their order.

        Where the connection breaks, what was not answered is sent again: the service knows
        users again. Raise `AuthError` when that does not help.
        """
        away_since: float | None = None
        wait = 0.1
        while True:
            try:
                for results in self._stream():
                    yield results
                    away_since, wait = None, 0.1
            except AuthError as error:
                now = time.monotonic()
                # Not since the last answer: the input may have had nothing to ask for long.
                away_since = away_since or now
                if not will_pass(error) or now - away_since >= self._patience:
                    raise
                self._say(f"Trying again: {error}")
            else:
                return
            time.sleep(random.uniform(wait / 2, wait))  # noqa: S311 - jitter
            wait = min(2 * wait, LONGEST_WAIT)

    def _stream(self) -> Iterator[list[Result]]:
        feed = _Feed(self)
        call: Any = self._auth.users.ImportUsers(feed.requests())
        try:
            for answer in call:
                chunk = self._unanswered.popleft()
                feed.room.release()
                yield list(chunk.results(answer.results))
        except AuthError:
            if self._error is None:
                raise
        finally:
            feed.end()
            call.cancel()
        if self._error is not None:
            raise self._error
        if self._unanswered:
            raise _ended_early()

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


class _Feed:
    """The requests of one stream: first those that an earlier one left unanswered."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._again = deque(sender._unanswered)  # noqa: SLF001 - its other half
        self._lock = sender._lock  # noqa: SLF001 - its other half
        self._ended = False
        self.room = threading.Semaphore(IN_FLIGHT)

    def requests(self) -> Iterator[ImportUsersRequest]:
        """Give requests as there is room for them."""
        while True:
            self.room.acquire()
            with self._lock:
                if self._ended:
                    return
                chunk = self._again.popleft() if self._again else self._sender.next_chunk()
            if chunk is None:
                return
            yield chunk.request

    def end(self) -> None:
        """Take no more rows: nobody waits for what becomes of them."""
        with self._lock:
            self._ended = True
        self.room.release()


def will_pass(error: AuthError) -> bool:
    """Tell whether the same may well be answered when it is sent again."""
    # A stream on a connection that the server is about to close ends CANCELLED.
    passing = isinstance(error, UnavailableError | BusyError | ConflictError)
    return passing or error.status is StatusCode.CANCELLED


def _chunks(rows: Iterable[Row], *, dry_run: bool) -> Iterator[_Chunk]:
    chunk = _Chunk(dry_run=dry_run)
    for row in map(_sendable, rows):
        if not chunk.takes(row):
            yield chunk
            chunk = _Chunk(dry_run=dry_run)
            chunk.takes(row)
    if chunk.rows:
        yield chunk


def _sendable(row: Row) -> Row:
    if isinstance(row.user, BadRow) or row.user.ByteSize() < MOST_BYTES:
        return row
    return Row(row.line, BadRow("", "is too large"))


def _ended_early() -> AuthError:
    """Give the error of a stream that ended well, though not all of it was answered."""
    words = "The stream ended before all of it was answered."
    return UnavailableError(StatusCode.UNAVAILABLE, Metadata(), Metadata(), words)


def _result(line: int, said: ImportResult) -> Result:
    # An outcome that this client does not know is no success.
    word = _OUTCOMES.get(said.outcome, "REFUSED")
    broken = tuple((rule.field, rule.description) for rule in said.broken_rules)
    return Result(line, word, said.user_id, _reason(said), broken)


def _reason(said: ImportResult) -> str:
    """Name why a user was refused, by its number where this client is older than the reason."""
    if said.outcome not in _OUTCOMES:
        return f"IMPORT_OUTCOME_{said.outcome}"
    if not said.reason:
        return ""
    is_known = said.reason in ErrorReason.values()
    return ErrorReason.Name(said.reason) if is_known else f"ERROR_REASON_{said.reason}"


_OUTCOMES = {
    number: name.removeprefix("IMPORT_OUTCOME_") for name, number in ImportOutcome.items() if number
}
