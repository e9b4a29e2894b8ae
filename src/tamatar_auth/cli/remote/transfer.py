"""The commands that move many users: `import` and `export`."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Annotated, NamedTuple

import typer

from tamatar_auth.cli.exits import Exit, misused
from tamatar_auth.cli.remote.context_file import Contexts
from tamatar_auth.cli.remote.error_text import told
from tamatar_auth.cli.remote.options import InContext
from tamatar_auth.cli.remote.output import say
from tamatar_auth.cli.transfer.exporter import Receiver
from tamatar_auth.cli.transfer.file_formats import Form, Row, read, writer
from tamatar_auth.cli.transfer.importer import PATIENCE, Sender
from tamatar_auth.cli.transfer.report import Report, Run, fingerprint

STANDARD = Path("-")

importing, exporting = (typer.Typer(rich_markup_mode=None, add_completion=False) for _ in range(2))

Patience = Annotated[
    float, typer.Option(min=0, help="Seconds for which the service may be away meanwhile.")
]
Format = Annotated[
    Form | None,
    typer.Option("--format", help="What the file is; its name tells, unless this does."),
]


@importing.command("import")
def import_users(  # noqa: PLR0913 - options of a command, each named
    file: Annotated[Path, typer.Argument(help="A file of users, or - for the input.")],
    *,
    form: Format = None,
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
    patience: Patience = PATIENCE,
    context: InContext = None,
) -> None:
    """Create the users of a file; exit code 1 if any was refused. Sent again they are the same."""
    form = Form.of(file, form)
    with _opened(file) as source:
        _, found = Contexts().named(context)
        is_kept = source.size is not None
        if resume and not is_kept:
            raise misused("--resume needs a file: what came before is not in the input any more.")
        path = report or (file.with_name(f"{file.name}.report.jsonl") if is_kept else None)
        about = Run(fingerprint(file) if is_kept else "-", found.address, dry_run=dry_run)
        written = Report(_beside(path, file), about)
        written.begin(resume=resume)
        try:
            with (
                found.connect() as auth,
                told(found.address),
                _progress(file.name, source.size) as advance,
            ):
                rows = _after(written.line, read(source.text, form))
                for results in Sender(
                    auth, rows, dry_run=dry_run, patience=patience, say=say
                ).results():
                    written.add(results)
                    advance(source.position())
        finally:
            written.end()
            _summary(written, path, dry_run=dry_run)
    raise typer.Exit(Exit.REFUSED if written.counts["REFUSED"] else 0)


@exporting.command("export")
def export_users(  # noqa: PLR0913 - options of a command, each named
    file: Annotated[Path, typer.Argument(help="The file to write, or - for the output.")],
    *,
    form: Format = None,
    password_hashes: Annotated[
        bool, typer.Option("--password-hashes", help="Write plain bcrypt hashes, too.")
    ] = False,
    after: Annotated[
        str, typer.Option(metavar="USER_ID", help="Go on after this user, at the end of the file.")
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    patience: Patience = PATIENCE,
    context: InContext = None,
) -> None:
    """Write all live users into a file that only its owner reads."""
    form = Form.of(file, form)
    _, found = Contexts().named(context)
    with (
        _created(file, append=bool(after), force=force) as text,
        found.connect() as auth,
        told(found.address),
        _progress(file.name, None) as advance,
    ):
        write = writer(text, form, with_header=not after)
        receiver = Receiver(
            auth, after=after, password_hashes=password_hashes, patience=patience, say=say
        )
        try:
            for users in receiver.users():
                for one in users:
                    write(one)
                text.flush()
                advance(receiver.count)
        finally:
            say(f"{receiver.count} users, the last one {receiver.after or 'none'}.")
            if receiver.kept:
                say(f"{receiver.kept} passwords stay here: their hashes are no plain bcrypt's.")


def _after(line: int, rows: Iterable[Row]) -> Iterator[Row]:
    return (row for row in rows if row.line > line)


def _beside(report: Path | None, file: Path) -> Path | None:
    """Return where a report goes, which is not the file itself."""
    if report is not None and report.exists() and file.exists() and report.samefile(file):
        raise misused(f"{report} is the file of users: name another one for the report.")
    return report


def _summary(report: Report, path: Path | None, *, dry_run: bool) -> None:
    would = "would be " if dry_run else ""
    counts = report.counts
    say(
        f"{counts.total()} rows: {would}created {counts['CREATED']},"
        f" there already {counts['EXISTS']}, refused {counts['REFUSED']}."
    )
    for reason, number in report.reasons.most_common():
        say(f"  {reason}: {number}")
    if path is not None:
        say(f"What became of each row stands in {path}.")


class _Source(NamedTuple):
    """A file that is read; its size is None where it can be read only once."""

    text: IO[str]
    size: int | None
    position: Callable[[], int]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[_Source]:
    """Open a file of users. What is no UTF-8 is refused row by row."""
    try:
        with contextlib.ExitStack() as opened:
            is_input = path == STANDARD
            raw = sys.stdin.buffer if is_input else opened.enter_context(path.open("rb"))
            text = io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="")
            is_kept = not is_input and path.is_file()
            size = path.stat().st_size if is_kept else None
            yield _Source(text, size, raw.tell if is_kept else lambda: 0)
    except OSError as error:
        raise misused(f"{path}: {error.strerror}.") from None


@contextlib.contextmanager
def _created(path: Path, *, append: bool, force: bool) -> Iterator[IO[str]]:
    if path == STANDARD:
        yield sys.stdout
        return
    how = os.O_APPEND if append else os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL)
    try:
        descriptor = os.open(path, os.O_WRONLY | how, 0o600)
    except FileExistsError:
        raise misused(f"{path} is there already: say --force to replace it.") from None
    except OSError as error:
        raise misused(f"{path}: {error.strerror}.") from None
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
        yield file


@contextlib.contextmanager
def _progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
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
