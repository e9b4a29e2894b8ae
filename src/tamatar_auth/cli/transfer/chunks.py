"""Rows of a file in requests of a bounded size, and the results of the rows."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar.auth.v1.user_service_pb2 import ImportOutcome, ImportResult, ImportUsersRequest
from tamatar_auth.cli.transfer.file_formats import InvalidRow, Row

MAX_CHUNK_USERS = 500
MAX_CHUNK_BYTES = 60 * 1024
"""Bytes of the users in a request: less than the message size that the service accepts."""


@dataclass(frozen=True, slots=True)
class RowResult:
    """The result of importing a row."""

    line: int
    outcome: str
    """CREATED, EXISTS or REFUSED."""
    user_id: str = ""
    reason: str = ""
    fields: tuple[tuple[str, str], ...] = ()


class Chunk:
    """Consecutive rows. The request holds their valid users; invalid rows are not sent."""

    def __init__(self, *, dry_run: bool) -> None:
        self.request = ImportUsersRequest(validate_only=dry_run)
        self.rows: list[Row] = []
        self._size = 0

    def try_add(self, row: Row) -> bool:
        """Add a row and return True, or return False if the chunk is full."""
        size = 0 if isinstance(row.user, InvalidRow) else row.user.ByteSize() + 8
        if len(self.rows) == MAX_CHUNK_USERS or (self.rows and self._size + size > MAX_CHUNK_BYTES):
            return False
        self.rows.append(row)
        if not isinstance(row.user, InvalidRow):
            self._size += size
            self.request.users.append(row.user)
        return True

    def results(self, import_results: Iterable[ImportResult]) -> Iterator[RowResult]:
        """Yield the result of each row, in order, from the results of the valid ones."""
        answered = iter(import_results)
        for row in self.rows:
            if isinstance(row.user, InvalidRow):
                fields = ((row.user.field, row.user.rule),)
                yield RowResult(row.line, "REFUSED", reason="INVALID_ROW", fields=fields)
            else:
                yield _result(row.line, next(answered))


def chunks(rows: Iterable[Row], *, dry_run: bool) -> Iterator[Chunk]:
    """Yield all rows in chunks."""
    chunk = Chunk(dry_run=dry_run)
    for row in rows:
        if not isinstance(row.user, InvalidRow) and row.user.ByteSize() >= MAX_CHUNK_BYTES:
            row = Row(row.line, InvalidRow("", "is too large"))  # noqa: PLW2901
        if not chunk.try_add(row):
            yield chunk
            chunk = Chunk(dry_run=dry_run)
            chunk.try_add(row)
    if chunk.rows:
        yield chunk


def _result(line: int, import_result: ImportResult) -> RowResult:
    # An outcome that this client does not know is no success.
    outcome = _OUTCOMES.get(import_result.outcome, "REFUSED")
    violations = tuple((rule.field, rule.description) for rule in import_result.broken_rules)
    return RowResult(line, outcome, import_result.user_id, _reason(import_result), violations)


def _reason(import_result: ImportResult) -> str:
    """Return the reason's name, or its number if the service is newer than this client."""
    if import_result.outcome not in _OUTCOMES:
        return f"IMPORT_OUTCOME_{import_result.outcome}"
    if not import_result.reason:
        return ""
    if import_result.reason in ErrorReason.values():
        return ErrorReason.Name(import_result.reason)
    return f"ERROR_REASON_{import_result.reason}"


_OUTCOMES = {
    number: name.removeprefix("IMPORT_OUTCOME_") for name, number in ImportOutcome.items() if number
}
