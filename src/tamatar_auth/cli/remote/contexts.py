"""The commands of `context`."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from tamatar_auth.cli.exits import usage_error
from tamatar_auth.cli.formats import Listing, OutputFormat, OutputOption, show, show_all
from tamatar_auth.cli.output import notify
from tamatar_auth.cli.remote.context_file import (
    ContextFile,
    ServiceContext,
    masked_fields,
    parse_caller_token,
    read_token_file,
)
from tamatar_auth.cli.remote.options import ContextArgument, prompt_secret, read_secret_line
from tamatar_auth.client.target import check_address, is_local

CONTEXTS = Listing(
    field="contexts",
    columns={
        "name": "Context",
        "address": "Address",
        "is_current": "Current",
        "credentials": "Credentials",
    },
    kept=2,
)


def add(  # noqa: PLR0913 - options of a command, each named
    name: Annotated[str, typer.Argument(help="The name of the context, such as production.")],
    address: Annotated[str, typer.Argument(help="Such as auth.example.com:50051.")],
    *,
    ca: Annotated[
        Path | None, typer.Option(help="Trust the CA bundle in this PEM file, not the system's.")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="Present the client certificate in this PEM file.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="Use this private key of the client certificate.")
    ] = None,
    server_name: Annotated[
        str | None, typer.Option(help="Expect this name in the server certificate.")
    ] = None,
    plaintext: Annotated[
        bool | None,
        typer.Option(
            "--plaintext/--tls",
            help="Force plain text or TLS. By default only local addresses use plain text.",
        ),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="Read the caller token from this file on each use.")
    ] = None,
    token_env: Annotated[
        str | None,
        typer.Option(metavar="VARIABLE", help="Read the caller token from this variable."),
    ] = None,
    token_stdin: Annotated[
        bool, typer.Option("--token-stdin", help="Store the token in the first line of stdin.")
    ] = False,
    use: Annotated[bool, typer.Option("--use", help="Make the context the current one.")] = False,
) -> None:
    """Add or replace a context. A prompt asks for the token if no option provides it."""
    if sum((token_file is not None, token_env is not None, token_stdin)) > 1:
        raise usage_error("Use only one of --token-file, --token-env and --token-stdin.")
    may_ask = not (token_file or token_env or certificate or is_local(address))
    context = ServiceContext(
        address=address,
        token=_token(from_stdin=token_stdin, may_ask=may_ask and sys.stdin.isatty()),
        token_file=_absolute(token_file),
        token_env=token_env,
        root_certificates=_absolute(ca),
        certificate=_absolute(certificate),
        private_key=_absolute(key),
        server_name=server_name,
        plaintext=plaintext,
    )
    _check(context)
    known = ContextFile()
    known.add(name, context)
    if use or known.current is None:
        known.use(name)
    notify(f"{name} is {address}; it is stored in {known.path}.")


def use(name: ContextArgument) -> None:
    """Make a context the current one."""
    ContextFile().use(name)


def show_contexts(*, output: OutputOption = OutputFormat.TABLE) -> None:
    """List the contexts."""
    known = ContextFile()
    current, _ = known.selected(None)
    rows = [
        {
            "name": name,
            "address": known.selected(name)[1].address,
            "is_current": name == current,
            "credentials": _credential_names(known.selected(name)[1]),
        }
        for name in dict.fromkeys([*known.by_name, current])
    ]
    show_all({"contexts": rows}, output, CONTEXTS)


def show_context(
    name: Annotated[
        str | None, typer.Argument(help="The name of the context; the current one by default.")
    ] = None,
    *,
    output: OutputOption = OutputFormat.TABLE,
) -> None:
    """Show a context. Its token is masked."""
    name, context = ContextFile().selected(name)
    show({"name": name, **masked_fields(context)}, output, name="name")


def remove(name: ContextArgument) -> None:
    """Remove a context."""
    ContextFile().remove(name)


def _check(context: ServiceContext) -> None:
    """Raise a usage error if the context cannot be used."""
    try:
        check_address(context.address)
    except ValueError as error:
        text = str(error)
        raise usage_error(f"{text[:1].upper()}{text[1:]}.") from None
    if context.token_file is not None:
        read_token_file(Path(context.token_file))
    if context.token_env is None or os.environ.get(context.token_env):
        context.connect().close()


def _token(*, from_stdin: bool, may_ask: bool) -> str | None:
    if from_stdin:
        return parse_caller_token(read_secret_line("token"), "in stdin")
    if not may_ask:
        return None
    text = prompt_secret("Token (empty for none)", default="")
    return parse_caller_token(text, "that was entered") if text else None


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.expanduser().absolute())


def _credential_names(context: ServiceContext) -> str:
    token = context.token or context.token_file or context.token_env
    credentials = ["a token"] * bool(token) + ["a certificate"] * bool(context.certificate)
    return " and ".join(credentials) or "nothing"
