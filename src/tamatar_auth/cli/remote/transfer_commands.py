"""The commands `import` and `export`."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Annotated, NamedTuple

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from tamatar_auth.cli.exits import ExitCode, usage_error
from tamatar_auth.cli.formats import TextFormat, TextOption
from tamatar_auth.cli.output import notify, print_json
from tamatar_auth.cli.remote.options import open_client
from tamatar_auth.cli.remote.service_selection import select_service
from tamatar_auth.cli.transfer.exporter import UserExporter
from tamatar_auth.cli.transfer.file_formats import FileFormat, user_writer
from tamatar_auth.cli.transfer.importer import UserImporter, check_access
from tamatar_auth.cli.transfer.report import ImportReport, fingerprint
from tamatar_auth.cli.transfer.retries import RETRY_TIMEOUT
from tamatar_auth.cli.transfer.row_reader import read_rows

STANDARD_STREAM = Path("-")
"""The argument that stands for stdin or stdout."""

PatienceOption = Annotated[
    float, typer.Option(min=0, help="Retry for this many seconds while the service is unavailable.")
]
FormatOption = Annotated[
    FileFormat | None,
    typer.Option("--format", help="Set the format. By default the name of the file decides."),
]


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
    output: TextOption = TextFormat.TEXT,
    ctx: typer.Context,
) -> None:
    """Import users from a file. Exit with 1 if a row is refused. A file may be imported again."""
    file_format = FileFormat.detect(file, file_format)
    with _open_source(file) as source, open_client(ctx) as auth:
        if resume and not source.is_regular_file:
            raise usage_error("--resume needs a file, because a pipe cannot be read again.")
        report = _report_path(report, source)
        # A refused caller gets its error before anything of the file is read.
        check_access(auth, notify, patience)
        rows = read_rows(source.text, file_format)
        import_report = ImportReport(
            report,
            source=fingerprint(file) if source.is_regular_file else str(STANDARD_STREAM),
            service=select_service(ctx).address,
            dry_run=dry_run,
        )
        import_report.open(resume=resume)
        new_rows = (row for row in rows if row.line > import_report.line)
        importer = UserImporter(auth, new_rows, dry_run=dry_run)
        _run_import(importer, import_report, source, patience, output)
    raise typer.Exit(ExitCode.REFUSED if import_report.counts["REFUSED"] else 0)


def _run_import(
    importer: UserImporter,
    report: ImportReport,
    source: "_Source",
    patience: float,
    output: TextFormat,
) -> None:
    try:
        with _progress_bar(source.path.name, source.size) as advance:
            for results in importer.results(notify, patience):
                report.add(results)
                advance(source.position())
    finally:
        report.close()
        _print_import(report, output)


def export_users(  # noqa: PLR0913 - options of a command, each named
    file: Annotated[Path, typer.Argument(help="The file to write, or - for stdout.")],
    *,
    file_format: FormatOption = None,
    password_hashes: Annotated[
        bool, typer.Option("--password-hashes", help="Include plain bcrypt hashes.")
    ] = False,
    after: Annotated[
        str,
        typer.Option(metavar="USER_ID", help="Append the users after this one to the file."),
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    patience: PatienceOption = RETRY_TIMEOUT,
    output: TextOption = TextFormat.TEXT,
    ctx: typer.Context,
) -> None:
    """Export users to a file. Only its owner can read the file, which has all live users."""
    file_format = FileFormat.detect(file, file_format)
    if output is TextFormat.JSON and file == STANDARD_STREAM:
        raise usage_error("Name a file to use -o json, because stdout has the users.")
    if not (after or force):
        _check_is_new(file)
    with open_client(ctx) as auth:
        exporter = UserExporter(auth, after=after, password_hashes=password_hashes)
        batches = exporter.users(notify, patience)
        # A refused caller gets its error before a file is created or replaced.
        first = next(batches, ())
        with (
            _open_destination(file, append=bool(after), force=force) as text,
            _progress_bar(file.name, None) as advance,
        ):
            write = user_writer(text, file_format, with_header=not after)
            try:
                for users in chain([first], batches):
                    for user in users:
                        write(user)
                    text.flush()
                    advance(exporter.count)
            finally:
                _print_export(exporter, output)


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
        is_input = path == STANDARD_STREAM
        raw = _open_unclosed(path)
        text = io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="")
        is_regular_file = not is_input and path.is_file()
        size = path.stat().st_size if is_regular_file else None
        yield _Source(path, text, size, raw.tell if is_regular_file else lambda: 0)
    except OSError as error:
        raise usage_error(f"{path}: {error.strerror}.") from None


def _open_unclosed(path: Path) -> IO[bytes]:
    """Return a file or stdin, with a buffer of its own.

    After Ctrl-C a thread may still read from a pipe, with the lock of the buffer. Closing the
    buffer would wait for the thread, and Python aborts if it has the lock of `sys.stdin.buffer`.
    """
    if path == STANDARD_STREAM:
        return open(sys.stdin.fileno(), "rb", closefd=False)
    return path.open("rb")


def _report_path(path: Path | None, source: _Source) -> Path | None:
    file = source.path
    if path is not None and path.exists() and file.exists() and path.samefile(file):
        raise usage_error(f"{path} is the file of users: name another file for the report.")
    if path is None and source.is_regular_file:
        return file.with_name(f"{file.name}.report.jsonl")
    return path


def _print_import(report: ImportReport, output: TextFormat) -> None:
    counts, would = report.counts, "would be " if report.is_dry_run else ""
    notify(
        f"{counts.total()} rows: {would}created {counts['CREATED']},"
        f" existing {counts['EXISTS']}, refused {counts['REFUSED']}."
    )
    for reason, number in report.reasons.most_common():
        notify(f"  {reason}: {number}")
    if report.path is not None:
        notify(f"The result of each row is in {report.path}.")
    if output is TextFormat.JSON:
        print_json(report.summary())


def _print_export(exporter: UserExporter, output: TextFormat) -> None:
    notify(f"{exporter.count} users, the last one {exporter.after or 'none'}.")
    if exporter.kept_passwords:
        notify(
            f"{exporter.kept_passwords} passwords were not exported:"
            " their hashes are not plain bcrypt."
        )
    if output is TextFormat.JSON:
        kept = {"kept_password_count": exporter.kept_passwords}
        print_json({"user_count": exporter.count, "last_user_id": exporter.after, **kept})


def _check_is_new(path: Path) -> None:
    if path != STANDARD_STREAM and path.exists():
        raise usage_error(f"{path} exists already: use --force to replace it.")


@contextlib.contextmanager
def _open_destination(path: Path, *, append: bool, force: bool) -> Iterator[IO[str]]:
    if path == STANDARD_STREAM:
        # Like other files of users, and unlike `sys.stdout`, it is UTF-8 in every locale.
        with open(sys.stdout.fileno(), "w", encoding="utf-8", newline="", closefd=False) as file:
            yield file
        return
    # Users are written as they arrive, because `--after` continues a file that was cut short.
    flags = os.O_APPEND if append else os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL)
    try:
        descriptor = os.open(path, os.O_WRONLY | flags, 0o600)
    except OSError as error:
        raise usage_error(f"{path}: {error.strerror}.") from None
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
        yield file


@contextlib.contextmanager
def _progress_bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show progress at a terminal; yield a function to call with the amount that is done."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)
