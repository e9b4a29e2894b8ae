"""The command `import`."""

import contextlib
import io
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Annotated, NamedTuple

import typer

from tamatar_auth.cli.exits import ExitCode, usage_error
from tamatar_auth.cli.output import notify
from tamatar_auth.cli.remote.context_file import ContextFile, ServiceContext
from tamatar_auth.cli.remote.error_text import command_errors
from tamatar_auth.cli.remote.options import ContextOption
from tamatar_auth.cli.remote.progress import (
    STANDARD_STREAM,
    FormatOption,
    PatienceOption,
    progress_bar,
)
from tamatar_auth.cli.transfer.file_formats import FileFormat, Row
from tamatar_auth.cli.transfer.importer import UserImporter
from tamatar_auth.cli.transfer.report import ImportReport, ImportRun, fingerprint
from tamatar_auth.cli.transfer.retries import RETRY_TIMEOUT
from tamatar_auth.cli.transfer.row_reader import read_rows


def import_users(  # noqa: PLR0913 - options of a command, each named
    file: Annotated[Path, typer.Argument(help="The file of users, or - for stdin.")],
    *,
    file_format: FormatOption = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Write a line for each row to this file. By default beside FILE."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue where the report of an earlier run ends.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Report the results, but create no users.")
    ] = False,
    patience: PatienceOption = RETRY_TIMEOUT,
    context: ContextOption = None,
) -> None:
    """Import users from a file. Exit with 1 if a row is refused. A file may be imported again."""
    file_format = FileFormat.detect(file, file_format)
    with _open_source(file) as source:
        if resume and not source.is_regular_file:
            raise usage_error("--resume needs a file, because a pipe cannot be read again.")
        _, service = ContextFile().selected(context)
        import_report = _report(report, source, service, dry_run=dry_run)
        import_report.open(resume=resume)
        try:
            with (
                service.connect() as auth,
                command_errors(service.address),
                progress_bar(file.name, source.size) as advance,
            ):
                rows = _rows_after(import_report.line, read_rows(source.text, file_format))
                importer = UserImporter(
                    auth, rows, dry_run=dry_run, patience=patience, notify=notify
                )
                for results in importer.results():
                    import_report.add(results)
                    advance(source.position())
        finally:
            import_report.close()
            _print_summary(import_report, dry_run=dry_run)
    raise typer.Exit(ExitCode.REFUSED if import_report.counts["REFUSED"] else 0)


class _Source(NamedTuple):
    """An open file of users. A pipe has no size, because it can be read only once."""

    path: Path
    text: IO[str]
    size: int | None
    position: Callable[[], int]

    @property
    def is_regular_file(self) -> bool:
        return self.size is not None


@contextlib.contextmanager
def _open_source(path: Path) -> Iterator[_Source]:
    """Open a file of users. Bytes that are not UTF-8 make only their row invalid."""
    try:
        with contextlib.ExitStack() as opened:
            is_input = path == STANDARD_STREAM
            raw = sys.stdin.buffer if is_input else opened.enter_context(path.open("rb"))
            text = io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="")
            is_regular_file = not is_input and path.is_file()
            size = path.stat().st_size if is_regular_file else None
            yield _Source(path, text, size, raw.tell if is_regular_file else lambda: 0)
    except OSError as error:
        raise usage_error(f"{path}: {error.strerror}.") from None


def _report(
    path: Path | None, source: _Source, service: ServiceContext, *, dry_run: bool
) -> ImportReport:
    file = source.path
    if path is not None and path.exists() and file.exists() and path.samefile(file):
        raise usage_error(f"{path} is the file of users: name another file for the report.")
    if path is None and source.is_regular_file:
        path = file.with_name(f"{file.name}.report.jsonl")
    name = fingerprint(file) if source.is_regular_file else str(STANDARD_STREAM)
    return ImportReport(path, ImportRun(name, service.address, dry_run=dry_run))


def _rows_after(line: int, rows: Iterable[Row]) -> Iterator[Row]:
    return (row for row in rows if row.line > line)


def _print_summary(report: ImportReport, *, dry_run: bool) -> None:
    would = "would be " if dry_run else ""
    counts = report.counts
    notify(
        f"{counts.total()} rows: {would}created {counts['CREATED']},"
        f" existing {counts['EXISTS']}, refused {counts['REFUSED']}."
    )
    for reason, number in report.reasons.most_common():
        notify(f"  {reason}: {number}")
    if report.path is not None:
        notify(f"The result of each row is in {report.path}.")
