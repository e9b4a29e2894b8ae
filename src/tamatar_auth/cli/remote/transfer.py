"""The commands that move many users: `import` and `export`."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Annotated, NamedTuple

import typer

from tamatar_auth.cli.exits import ExitCode, usage_error
from tamatar_auth.cli.remote.context_file import ContextFile
from tamatar_auth.cli.remote.error_text import command_errors
from tamatar_auth.cli.remote.options import ContextOption
from tamatar_auth.cli.remote.output import notify
from tamatar_auth.cli.transfer.exporter import UserExporter
from tamatar_auth.cli.transfer.file_formats import FileFormat, Row, read_rows, user_writer
from tamatar_auth.cli.transfer.importer import RETRY_TIMEOUT, UserImporter
from tamatar_auth.cli.transfer.report import ImportReport, ImportRun, fingerprint

STANDARD_STREAM = Path("-")

import_app, export_app = (
    typer.Typer(rich_markup_mode=None, add_completion=False) for _ in range(2)
)

PatienceOption = Annotated[
    float, typer.Option(min=0, help="Seconds for which the service may be away meanwhile.")
]
FormatOption = Annotated[
    FileFormat | None,
    typer.Option("--format", help="What the file is; its name tells, unless this does."),
]


@import_app.command("import")
def import_users(  # noqa: PLR0913 - options of a command, each named
    file: Annotated[Path, typer.Argument(help="A file of users, or - for the input.")],
    *,
    file_format: FormatOption = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Where to write a line for each row; beside the file by default."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the report of an earlier run ends.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would become of the users; create none.")
    ] = False,
    patience: PatienceOption = RETRY_TIMEOUT,
    context: ContextOption = None,
) -> None:
    """Create the users of a file; exit code 1 if any was refused. Sent again they are the same."""
    file_format = FileFormat.detect(file, file_format)
    with _open_source(file) as source:
        _, service = ContextFile().selected(context)
        is_regular_file = source.size is not None
        if resume and not is_regular_file:
            raise usage_error(
                "--resume needs a file: what came before is not in the input any more."
            )
        path = report or (file.with_name(f"{file.name}.report.jsonl") if is_regular_file else None)
        run = ImportRun(
            fingerprint(file) if is_regular_file else "-", service.address, dry_run=dry_run
        )
        import_report = ImportReport(_report_path(path, file), run)
        import_report.open(resume=resume)
        try:
            with (
                service.connect() as auth,
                command_errors(service.address),
                _progress_bar(file.name, source.size) as advance,
            ):
                rows = _rows_after(import_report.line, read_rows(source.text, file_format))
                for results in UserImporter(
                    auth, rows, dry_run=dry_run, patience=patience, notify=notify
                ).results():
                    import_report.add(results)
                    advance(source.position())
        finally:
            import_report.close()
            _print_summary(import_report, path, dry_run=dry_run)
    raise typer.Exit(ExitCode.REFUSED if import_report.counts["REFUSED"] else 0)


@export_app.command("export")
def export_users(  # noqa: PLR0913 - options of a command, each named
    file: Annotated[Path, typer.Argument(help="The file to write, or - for the output.")],
    *,
    file_format: FormatOption = None,
    password_hashes: Annotated[
        bool, typer.Option("--password-hashes", help="Write plain bcrypt hashes, too.")
    ] = False,
    after: Annotated[
        str, typer.Option(metavar="USER_ID", help="Go on after this user, at the end of the file.")
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    patience: PatienceOption = RETRY_TIMEOUT,
    context: ContextOption = None,
) -> None:
    """Write all live users into a file that only its owner reads."""
    file_format = FileFormat.detect(file, file_format)
    _, service = ContextFile().selected(context)
    with (
        _open_destination(file, append=bool(after), force=force) as text,
        service.connect() as auth,
        command_errors(service.address),
        _progress_bar(file.name, None) as advance,
    ):
        write = user_writer(text, file_format, with_header=not after)
        exporter = UserExporter(
            auth, after=after, password_hashes=password_hashes, patience=patience, notify=notify
        )
        try:
            for users in exporter.users():
                for user in users:
                    write(user)
                text.flush()
                advance(exporter.count)
        finally:
            notify(f"{exporter.count} users, the last one {exporter.after or 'none'}.")
            if exporter.kept_passwords:
                notify(
                    f"{exporter.kept_passwords} passwords stay here:"
                    " their hashes are no plain bcrypt's."
                )


def _rows_after(line: int, rows: Iterable[Row]) -> Iterator[Row]:
    return (row for row in rows if row.line > line)


def _report_path(report: Path | None, file: Path) -> Path | None:
    """Return where a report goes, which is not the file itself."""
    if report is not None and report.exists() and file.exists() and report.samefile(file):
        raise usage_error(f"{report} is the file of users: name another one for the report.")
    return report


def _print_summary(report: ImportReport, path: Path | None, *, dry_run: bool) -> None:
    would = "would be " if dry_run else ""
    counts = report.counts
    notify(
        f"{counts.total()} rows: {would}created {counts['CREATED']},"
        f" there already {counts['EXISTS']}, refused {counts['REFUSED']}."
    )
    for reason, number in report.reasons.most_common():
        notify(f"  {reason}: {number}")
    if path is not None:
        notify(f"What became of each row stands in {path}.")


class _Source(NamedTuple):
    """A file that is read; its size is None where it can be read only once."""

    text: IO[str]
    size: int | None
    position: Callable[[], int]


@contextlib.contextmanager
def _open_source(path: Path) -> Iterator[_Source]:
    """Open a file of users. What is no UTF-8 is refused row by row."""
    try:
        with contextlib.ExitStack() as opened:
            is_input = path == STANDARD_STREAM
            raw = sys.stdin.buffer if is_input else opened.enter_context(path.open("rb"))
            text = io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="")
            is_regular_file = not is_input and path.is_file()
            size = path.stat().st_size if is_regular_file else None
            yield _Source(text, size, raw.tell if is_regular_file else lambda: 0)
    except OSError as error:
        raise usage_error(f"{path}: {error.strerror}.") from None


@contextlib.contextmanager
def _open_destination(path: Path, *, append: bool, force: bool) -> Iterator[IO[str]]:
    if path == STANDARD_STREAM:
        yield sys.stdout
        return
    flags = os.O_APPEND if append else os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL)
    try:
        descriptor = os.open(path, os.O_WRONLY | flags, 0o600)
    except FileExistsError:
        raise usage_error(f"{path} is there already: say --force to replace it.") from None
    except OSError as error:
        raise usage_error(f"{path}: {error.strerror}.") from None
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
        yield file


@contextlib.contextmanager
def _progress_bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show people how far it is; give what is told how much of the total is done."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)
