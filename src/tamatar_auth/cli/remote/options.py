"""The options that commands have in common, and the questions that they ask."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from tamatar_auth.cli.exits import CommandError, misused
from tamatar_auth.cli.remote.context_file import VARIABLE, Contexts
from tamatar_auth.cli.remote.error_text import told
from tamatar_auth.cli.remote.output import Output
from tamatar_auth.client import AuthClient


def _complete_contexts(incomplete: str) -> list[str]:
    with contextlib.suppress(CommandError):
        return [name for name in Contexts().by_name if name.startswith(incomplete)]
    return []


InContext = Annotated[
    str | None,
    typer.Option(
        "--context",
        envvar=VARIABLE,
        show_envvar=False,
        metavar="NAME",
        autocompletion=_complete_contexts,
        help=f"The service to call, in place of {VARIABLE} or the current context.",
    ),
]
ContextName = Annotated[
    str, typer.Argument(autocompletion=_complete_contexts, help="The context's name.")
]
As = Annotated[
    Output, typer.Option("--output", "-o", help="A table for people, or json or yaml for scripts.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without a question.")]
PasswordFromInput = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from the first line of input.")
]


@contextlib.contextmanager
def called(context: str | None) -> Iterator[AuthClient]:
    """Give a client of the service of a context; what it refuses ends the command."""
    _, found = Contexts().named(context)
    with found.connect() as auth, told(found.address):
        yield auth


def confirm(question: str, *, yes: bool) -> None:
    """Go on if this is wanted; ask unless it was said already."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise misused(f"{question} Say --yes: there is nobody to ask.")
    typer.confirm(question, abort=True, err=True)


def line_of_input(what: str) -> str:
    """Read a secret from the first line of input, where no list of processes shows it."""
    line = sys.stdin.readline().rstrip("\r\n")
    if not line:
        raise misused(f"There is no {what} in the input.")
    return line


def new_password(*, from_input: bool) -> str:
    """Read a new password, from the input or twice from a person."""
    if from_input:
        return line_of_input("password")
    if not sys.stdin.isatty():
        raise misused("There is nobody to ask for the password: say --password-stdin.")
    said: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return said
