"""The command `export`."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated

import typer

from tamatar_auth.cli.exits import usage_error
from tamatar_auth.cli.output import notify
from tamatar_auth.cli.remote.context_file import ContextFile
from tamatar_auth.cli.remote.error_text import command_errors
from tamatar_auth.cli.remote.options import ContextOption
from tamatar_auth.cli.remote.progress import (
    STANDARD_STREAM,
    FormatOption,
    PatienceOption,
    progress_bar,
)
from tamatar_auth.cli.transfer.exporter import UserExporter
from tamatar_auth.cli.transfer.file_formats import FileFormat
from tamatar_auth.cli.transfer.retries import RETRY_TIMEOUT
from tamatar_auth.cli.transfer.user_writer import user_writer


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
    context: ContextOption = None,
) -> None:
    """Export users to a file. Only its owner can read the file, which has all live users."""
    file_format = FileFormat.detect(file, file_format)
    _, service = ContextFile().selected(context)
    with (
        _open_destination(file, append=bool(after), force=force) as text,
        service.connect() as auth,
        command_errors(service.address),
        progress_bar(file.name, None) as advance,
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
            _print_summary(exporter)


def _print_summary(exporter: UserExporter) -> None:
    notify(f"{exporter.count} users, the last one {exporter.after or 'none'}.")
    if exporter.kept_passwords:
        notify(
            f"{exporter.kept_passwords} passwords were not exported:"
            " their hashes are not plain bcrypt."
        )


@contextlib.contextmanager
def _open_destination(path: Path, *, append: bool, force: bool) -> Iterator[IO[str]]:
    if path == STANDARD_STREAM:
        yield sys.stdout
        return
    # Users are written as they arrive, because `--after` continues a file that was cut short.
    flags = os.O_APPEND if append else os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL)
    try:
        descriptor = os.open(path, os.O_WRONLY | flags, 0o600)
    except FileExistsError:
        raise usage_error(f"{path} exists already: use --force to replace it.") from None
    except OSError as error:
        raise usage_error(f"{path}: {error.strerror}.") from None
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
        yield file
