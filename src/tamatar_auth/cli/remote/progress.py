"""The options and the progress bar of `import` and `export`."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from tamatar_auth.cli.transfer.file_formats import FileFormat

STANDARD_STREAM = Path("-")
"""The argument that stands for stdin or stdout."""

PatienceOption = Annotated[
    float, typer.Option(min=0, help="Retry for this many seconds while the service is unavailable.")
]
FormatOption = Annotated[
    FileFormat | None,
    typer.Option("--format", help="Set the format. By default the name of the file decides."),
]


@contextlib.contextmanager
def progress_bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show progress at a terminal; yield a function to call with the amount that is done."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)
