"""The options that commands have in common, and the questions that they ask."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from tamatar_auth.cli.exits import CommandError, usage_error
from tamatar_auth.cli.remote.context_file import CONTEXT_VARIABLE, ContextFile
from tamatar_auth.cli.remote.error_text import command_errors
from tamatar_auth.cli.remote.output import OutputFormat
from tamatar_auth.client import AuthClient


def _complete_contexts(incomplete: str) -> list[str]:
    with contextlib.suppress(CommandError):
        return [name for name in ContextFile().by_name if name.startswith(incomplete)]
    return []


ContextOption = Annotated[
    str | None,
    typer.Option(
        "--context",
        envvar=CONTEXT_VARIABLE,
        show_envvar=False,
        metavar="NAME",
        autocompletion=_complete_contexts,
        help=f"The service to call, in place of {CONTEXT_VARIABLE} or the current context.",
    ),
]
ContextArgument = Annotated[
    str, typer.Argument(autocompletion=_complete_contexts, help="The context's name.")
]
OutputOption = Annotated[
    OutputFormat,
    typer.Option("--output", "-o", help="A table for people, or json or yaml for scripts."),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do it without a question.")]
PasswordStdinOption = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from the first line of input.")
]


@contextlib.contextmanager
def open_client(context: str | None) -> Iterator[AuthClient]:
    """Give a client of the service of a context; what it refuses ends the command."""
    _, service = ContextFile().selected(context)
    with service.connect() as auth, command_errors(service.address):
        yield auth


def confirm(question: str, *, yes: bool) -> None:
    """Go on if this is wanted; ask unless it was said already."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise usage_error(f"{question} Say --yes: there is nobody to ask.")
    typer.confirm(question, abort=True, err=True)


def read_secret_line(what: str) -> str:
    """Read a secret from the first line of input, where no list of processes shows it."""
    line = sys.stdin.readline().rstrip("\r\n")
    if not line:
        raise usage_error(f"There is no {what} in the input.")
    return line


def read_new_password(*, from_input: bool) -> str:
    """Read a new password, from the input or twice from a person."""
    if from_input:
        return read_secret_line("password")
    if not sys.stdin.isatty():
        raise usage_error("There is nobody to ask for the password: say --password-stdin.")
    password: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return password
