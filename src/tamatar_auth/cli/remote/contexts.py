"""The commands about contexts: the services that this person calls."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from tamatar_auth.cli.exits import usage_error
from tamatar_auth.cli.remote.context_file import (
    ContextFile,
    ServiceContext,
    masked_fields,
    parse_caller_token,
    read_token_file,
)
from tamatar_auth.cli.remote.options import ContextArgument, OutputOption, read_secret_line
from tamatar_auth.cli.remote.output import OutputFormat, notify, show, show_all
from tamatar_auth.client.target import is_local

contexts = typer.Typer(
    help="Say which services the commands call, and how.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

COLUMNS = {"current": "", "name": "Context", "address": "Address", "shows": "Shows"}


@contexts.command("add")
def add(  # noqa: PLR0913 - options of a command, each named
    name: Annotated[str, typer.Argument(help="What to call it, such as production.")],
    address: Annotated[str, typer.Argument(help="Such as auth.example.com:50051.")],
    *,
    ca: Annotated[Path | None, typer.Option(help="The authorities to trust, as PEM.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="What this caller shows.")] = None,
    key: Annotated[Path | None, typer.Option(help="The key of the certificate.")] = None,
    server_name: Annotated[
        str | None, typer.Option(help="Whom the service's certificate names.")
    ] = None,
    plaintext: Annotated[
        bool | None,
        typer.Option("--plaintext/--tls", help="Whether nothing is encrypted; told by the rest."),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="A file that has this caller's token; read each time.")
    ] = None,
    token_env: Annotated[
        str | None, typer.Option(metavar="VARIABLE", help="A variable that has it.")
    ] = None,
    token_stdin: Annotated[
        bool, typer.Option("--token-stdin", help="Keep the token that is the first line of input.")
    ] = False,
    use: Annotated[bool, typer.Option("--use", help="Take it as the current one.")] = False,
) -> None:
    """Add a context, or replace it. A token is asked for where a service of elsewhere needs one."""
    if sum((token_file is not None, token_env is not None, token_stdin)) > 1:
        raise usage_error("One of --token-file, --token-env and --token-stdin is enough.")
    may_ask = not (token_file or token_env or certificate or is_local(address))
    context = ServiceContext(
        address=address,
        token=_token(from_input=token_stdin, may_ask=may_ask and sys.stdin.isatty()),
        token_file=_absolute(token_file),
        token_env=token_env,
        root_certificates=_absolute(ca),
        certificate=_absolute(certificate),
        private_key=_absolute(key),
        server_name=server_name,
        plaintext=plaintext,
    )
    if token_file is not None:
        read_token_file(token_file)
    if token_env is None or os.environ.get(token_env):
        context.connect().close()
    known = ContextFile()
    known.add(name, context)
    if use or known.current is None:
        known.use(name)
    notify(f"{name} is {address}; it stands in {known.path}.")


@contexts.command("use")
def use(name: ContextArgument) -> None:
    """Take a context as the current one."""
    ContextFile().use(name)


@contexts.command("list")
def show_contexts(*, output: OutputOption = OutputFormat.TABLE) -> None:
    """Show the contexts."""
    known = ContextFile()
    current, _ = known.selected(None)
    names = dict.fromkeys([*known.by_name, current])
    rows = [
        {
            "current": "*" if name == current else "",
            "name": name,
            "address": known.selected(name)[1].address,
            "shows": _credential_names(known.selected(name)[1]),
        }
        for name in names
    ]
    if output is not OutputFormat.TABLE:
        rows = [{**row, "current": row["current"] == "*"} for row in rows]  # type: ignore[dict-item]
    show_all(rows, output, COLUMNS)


@contexts.command("show")
def show_context(
    name: Annotated[
        str | None, typer.Argument(help="The context, or else the current one.")
    ] = None,
    *,
    output: OutputOption = OutputFormat.TABLE,
) -> None:
    """Show a context. Its token is masked."""
    name, context = ContextFile().selected(name)
    show({"name": name, **masked_fields(context)}, output)


@contexts.command("remove")
def remove(name: ContextArgument) -> None:
    """Remove a context."""
    ContextFile().remove(name)


def _token(*, from_input: bool, may_ask: bool) -> str | None:
    if from_input:
        return parse_caller_token(read_secret_line("token"), "in the input")
    if not may_ask:
        return None
    text: str = typer.prompt("Token (empty for none)", default="", hide_input=True, err=True)
    return parse_caller_token(text, "that was entered") if text else None


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.expanduser().absolute())


def _credential_names(context: ServiceContext) -> str:
    token = context.token or context.token_file or context.token_env
    credentials = ["a token"] * bool(token) + ["a certificate"] * bool(context.certificate)
    return " and ".join(credentials) or "nothing"
