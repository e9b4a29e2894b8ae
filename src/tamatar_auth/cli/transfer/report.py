"""The report of an import: a line for each row, and what a later run goes on from."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from tamatar_auth.cli.exits import usage_error
from tamatar_auth.cli.transfer.importer import RowResult


@dataclass(frozen=True, slots=True)
class ImportRun:
    """What a report is about: a file (`-` for a pipe), where it goes, and whether to stay."""

    source: str
    service: str
    dry_run: bool


class ImportReport:
    """Counts what became of the rows, and writes it down where there is a file for it.

    The first line says of which run it is. A line is written when the service has answered,
    so what stands there is so; what is missing may have been done, too.
    """

    def __init__(self, path: Path | None, run: ImportRun) -> None:
        self.counts: Counter[str] = Counter()
        """How many rows were CREATED, were there already (EXISTS) or were REFUSED."""
        self.reasons: Counter[str] = Counter()
        """Why how many were refused."""
        self.line = 0
        """The line of the last row that was reported."""
        self._path = path
        self._run = asdict(run)
        self._file: IO[str] | None = None

    def open(self, *, resume: bool) -> None:
        """Open the file: an empty one, or the one of a run that did not end."""
        if self._path is None:
            return
        try:
            valid_length = self._resume_length() if resume else 0
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            os.truncate(descriptor, valid_length)
        except OSError as error:
            raise usage_error(f"{self._path}: {error.strerror}.") from None
        self._file = os.fdopen(descriptor, "a", encoding="utf-8")
        if not valid_length:
            self._write(self._run)

    def add(self, results: Iterable[RowResult]) -> None:
        """Count rows, and write them down."""
        for result in results:
            self._count(result.outcome, result.reason, result.line)
            self._write(_entry(result))
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _count(self, outcome: str, reason: str, line: int) -> None:
        self.counts[outcome] += 1
        if reason:
            self.reasons[reason] += 1
        self.line = line

    def _write(self, entry: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(entry) + "\n")

    def _resume_length(self) -> int:
        """Count what stands in the file; return its length without a line that was cut."""
        assert self._path is not None  # noqa: S101 - for the type checker
        if not self._path.exists():
            return 0
        length = 0
        for number, (line, line_end) in enumerate(_complete_lines(self._path)):
            entry = self._read(line)
            if number == 0 and entry != self._run:
                raise usage_error(
                    f"{self._path} is the report of another file, of another service or of a"
                    " --dry-run: leave out --resume."
                )
            if number:
                self._count(entry["result"], entry.get("reason", ""), entry["line"])
            length = line_end
        return length

    def _read(self, line: bytes) -> dict[str, Any]:
        try:
            entry = json.loads(line)
            return (
                entry
                if "source" in entry
                else {"result": entry["result"], **entry, "line": int(entry["line"])}
            )
        except (ValueError, TypeError, KeyError):
            raise usage_error(f"{self._path} is no report of an import.") from None


def fingerprint(path: Path) -> str:
    """Tell a file from others."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _complete_lines(path: Path) -> Iterator[tuple[bytes, int]]:
    length = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            length += len(line)
            yield line, length


def _entry(result: RowResult) -> dict[str, Any]:
    entry: dict[str, Any] = {"line": result.line, "result": result.outcome}
    if result.user_id:
        entry["user_id"] = result.user_id
    if result.reason:
        entry["reason"] = result.reason
    if result.fields:
        entry["fields"] = [{"field": field, "rule": rule} for field, rule in result.fields]
    return entry
