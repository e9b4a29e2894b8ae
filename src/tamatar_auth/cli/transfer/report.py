"""The report of an import: a line for each row, and what a later run goes on from."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from tamatar_auth.cli.exits import misused
from tamatar_auth.cli.transfer.importer import Result


@dataclass(frozen=True, slots=True)
class Run:
    """What a report is about: a file (`-` for a pipe), where it goes, and whether to stay."""

    source: str
    service: str
    dry_run: bool


class Report:
    """Counts what became of the rows, and writes it down where there is a file for it.

    The first line says of which run it is. A line is written when the service has answered,
    so what stands there is so; what is missing may have been done, too.
    """

    def __init__(self, path: Path | None, run: Run) -> None:
        self.counts: Counter[str] = Counter()
        """How many rows were CREATED, were there already (EXISTS) or were REFUSED."""
        self.reasons: Counter[str] = Counter()
        """Why how many were refused."""
        self.line = 0
        """The line of the last row that was reported."""
        self._path = path
        self._run = asdict(run)
        self._file: IO[str] | None = None

    def begin(self, *, resume: bool) -> None:
        """Open the file: an empty one, or the one of a run that did not end."""
        if self._path is None:
            return
        try:
            whole = self._taken_over() if resume else 0
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            os.truncate(descriptor, whole)
        except OSError as error:
            raise misused(f"{self._path}: {error.strerror}.") from None
        self._file = os.fdopen(descriptor, "a", encoding="utf-8")
        if not whole:
            self._write(self._run)

    def add(self, results: Iterable[Result]) -> None:
        """Count rows, and write them down."""
        for result in results:
            self._count(result.word, result.reason, result.line)
            self._write(_line(result))
        if self._file is not None:
            self._file.flush()

    def end(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _count(self, word: str, reason: str, line: int) -> None:
        self.counts[word] += 1
        if reason:
            self.reasons[reason] += 1
        self.line = line

    def _write(self, said: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(said) + "\n")

    def _taken_over(self) -> int:
        """Count what stands in the file; return its length without a line that was cut."""
        assert self._path is not None  # noqa: S101 - for the type checker
        if not self._path.exists():
            return 0
        length = 0
        for number, (line, ends) in enumerate(_whole_lines(self._path)):
            said = self._read(line)
            if number == 0 and said != self._run:
                raise misused(
                    f"{self._path} is the report of another file, of another service or of a"
                    " --dry-run: leave out --resume."
                )
            if number:
                self._count(said["result"], said.get("reason", ""), said["line"])
            length = ends
        return length

    def _read(self, line: bytes) -> dict[str, Any]:
        try:
            said = json.loads(line)
            return (
                said
                if "source" in said
                else {"result": said["result"], **said, "line": int(said["line"])}
            )
        except (ValueError, TypeError, KeyError):
            raise misused(f"{self._path} is no report of an import.") from None


def fingerprint(path: Path) -> str:
    """Tell a file from others."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _whole_lines(path: Path) -> Iterator[tuple[bytes, int]]:
    length = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            length += len(line)
            yield line, length


def _line(result: Result) -> dict[str, Any]:
    said: dict[str, Any] = {"line": result.line, "result": result.word}
    if result.user_id:
        said["user_id"] = result.user_id
    if result.reason:
        said["reason"] = result.reason
    if result.fields:
        said["fields"] = [{"field": field, "rule": rule} for field, rule in result.fields]
    return said
