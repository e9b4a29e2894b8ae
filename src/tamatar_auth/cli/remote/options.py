"""The options that commands share, their prompts, and their calls."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from tamatar_auth.cli.exits import CommandError, ExitCode, usage_error
from tamatar_auth.cli.output import notify
from tamatar_auth.cli.remote.context_file import complete_contexts
from tamatar_auth.cli.remote.failures import error_message
from tamatar_auth.cli.remote.service_selection import select_service
from tamatar_auth.client import (
    AuthClient,
    AuthError,
    BusyError,
    CallerError,
    NotFoundError,
    UnavailableError,
)

ContextArgument = Annotated[
    str, typer.Argument(autocompletion=complete_contexts, help="The name of the context.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
PasswordStdinOption = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from the first line of stdin.")
]


_INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells report it."""

_EXIT_CODES: dict[type[AuthError], ExitCode] = {
    UnavailableError: ExitCode.UNAVAILABLE,
    BusyError: ExitCode.UNAVAILABLE,
    NotFoundError: ExitCode.NOT_FOUND,
    CallerError: ExitCode.NOT_ALLOWED,
}


@contextlib.contextmanager
def open_client(ctx: typer.Context) -> Iterator[AuthClient]:
    """Yield a client of the service that the command calls. A call that fails ends the command."""
    service = select_service(ctx)
    try:
        with service.connect() as auth:
            yield auth
    except AuthError as error:
        codes = (code for kind, code in _EXIT_CODES.items() if isinstance(error, kind))
        code = next(codes, ExitCode.REFUSED)
        raise CommandError(error_message(error, service), code) from None


def confirm(question: str, *, yes: bool) -> None:
    """Ask for confirmation unless `yes`; exit with 1 if it is denied."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise usage_error(f"{question} Use --yes to confirm, because stdin is no terminal.")
    with _exit_on_ctrl_c():
        typer.confirm(question, abort=True, err=True)


def read_secret_line(what: str) -> str:
    """Return the first line of stdin. An argument would be visible in the list of processes."""
    line = sys.stdin.readline().rstrip("\r\n")
    if not line:
        raise usage_error(f"There is no {what} in stdin.")
    return line


def read_secret(what: str, *, from_stdin: bool, twice: bool = False) -> str:
    """Return a secret from stdin or from a prompt, which asks twice for a new secret."""
    if from_stdin:
        return read_secret_line(what)
    if not sys.stdin.isatty():
        raise usage_error(f"Use --{what}-stdin to pass the {what}, because stdin is no terminal.")
    return prompt_secret(what.capitalize(), twice=twice)


def prompt_secret(label: str, *, default: str | None = None, twice: bool = False) -> str:
    """Return what a person enters at the terminal, which does not show it."""
    with _exit_on_ctrl_c():
        secret: str = typer.prompt(
            label, default=default, hide_input=True, confirmation_prompt=twice, err=True
        )
    return secret


@contextlib.contextmanager
def _exit_on_ctrl_c() -> Iterator[None]:
    """Exit with 130 if Ctrl-C ends a prompt. Typer ends it as if the answer were no."""
    try:
        yield
    except typer.Abort as abort:
        if not isinstance(abort.__context__, KeyboardInterrupt):
            raise
        notify("Aborted!")
        raise typer.Exit(_INTERRUPTED) from None


def read_new_password(*, from_stdin: bool) -> str:
    """Return a new password from stdin, or from a prompt that asks twice."""
    return read_secret("password", from_stdin=from_stdin, twice=True)
