"""The report of an import: a line for each row, from which a later run can continue."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from tamatar_auth.cli.exits import usage_error
from tamatar_auth.cli.transfer.chunks import RowResult


class ImportReport:
    """Counts the results of the rows, and writes them to a file if there is a path.

    The first line identifies the run: its file (`-` for a pipe), its service, and whether it is a
    dry run. A row's line is written after the service has answered.
    A row without a line may have been imported as well.
    """

    def __init__(self, path: Path | None, *, source: str, service: str, dry_run: bool) -> None:
        self.counts: Counter[str] = Counter()
        """The number of rows by result: CREATED, EXISTS or REFUSED."""
        self.reasons: Counter[str] = Counter()
        """The number of refused rows by reason."""
        self.line = 0
        """The line of the last row that was reported."""
        self.path = path
        self.is_dry_run = dry_run
        self._run = {"source": source, "service": service, "dry_run": dry_run}
        self._file: IO[str] | None = None

    def open(self, *, resume: bool) -> None:
        """Open the file: empty, or to continue the report of an earlier run."""
        if self.path is None:
            return
        try:
            valid_length = self._resume_length() if resume else 0
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            os.truncate(descriptor, valid_length)
        except OSError as error:
            raise usage_error(f"{self.path}: {error.strerror}.") from None
        self._file = os.fdopen(descriptor, "a", encoding="utf-8")
        if not valid_length:
            self._write(self._run)

    def add(self, results: Iterable[RowResult]) -> None:
        """Count and write the results of rows."""
        for result in results:
            self._count(result.outcome, result.reason, result.line)
            self._write(_entry(result))
        if self._file is not None:
            self._file.flush()

    def summary(self) -> dict[str, Any]:
        """Return the counts, for scripts."""
        return {
            "dry_run": self.is_dry_run,
            "created": self.counts["CREATED"],
            "existing": self.counts["EXISTS"],
            "refused": self.counts["REFUSED"],
            "reasons": dict(self.reasons),
            "report": None if self.path is None else str(self.path),
        }

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
        """Count the rows in the file; return its length without a last line that was cut off."""
        assert self.path is not None  # noqa: S101 - for the type checker
        if not self.path.exists():
            return 0
        length = 0
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                entry = self._read(line)
                if not length and entry != self._run:
                    raise usage_error(
                        f"{self.path} is the report of another file, of another service or of a"
                        " --dry-run: run the import without --resume."
                    )
                if length:
                    self._count(entry["result"], entry.get("reason", ""), entry["line"])
                length += len(line)
        return length

    def _read(self, line: bytes) -> dict[str, Any]:
        try:
            entry = json.loads(line)
            if "source" in entry:
                return dict(entry)
            return {"result": entry["result"], **entry, "line": int(entry["line"])}
        except (ValueError, TypeError, KeyError):
            raise usage_error(f"{self.path} is not a report of an import.") from None


def fingerprint(path: Path) -> str:
    """Return a digest of a file's content."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _entry(result: RowResult) -> dict[str, Any]:
    entry: dict[str, Any] = {"line": result.line, "result": result.outcome}
    fields = [{"field": field, "rule": rule} for field, rule in result.fields]
    details = {"user_id": result.user_id, "reason": result.reason, "fields": fields}
    return entry | {name: value for name, value in details.items() if value}
