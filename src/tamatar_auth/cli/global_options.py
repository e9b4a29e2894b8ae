"""The options that stand before or after the words of a command: the version, and the service."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer
import typer.main

from tamatar_auth import __version__

ADDRESS_VARIABLE = "TAMATAR_ADDRESS"
TOKEN_VARIABLE = "TAMATAR_TOKEN"  # noqa: S105 - the name of a variable
CONTEXT_VARIABLE = "TAMATAR_CONTEXT"

_META = "tamatar_auth.service"
"""The key of the options in the data that the contexts of a command line share."""


def service_options(ctx: typer.Context) -> Mapping[str, str]:
    """Return the options that choose the service, by name. One after a command replaces another."""
    chosen: Mapping[str, str] = ctx.meta.get(_META, {})
    return chosen


def version_parameters(*, hidden: bool = False) -> Sequence[Any]:
    """Return the parameter `--version`."""
    return _parameters(_version_option, hidden=hidden)


def service_parameters(*, hidden: bool = False) -> Sequence[Any]:
    """Return the parameters that choose the service. They leave their values in the context."""
    return _parameters(_service_options, hidden=hidden)


def _store(ctx: typer.Context, param: typer.CallbackParam, value: str | None) -> None:
    if value == "":
        raise typer.BadParameter("is empty: a variable may be unset.")
    if value is not None:
        ctx.meta[_META] = {**service_options(ctx), str(param.name): value}


def _complete_contexts(incomplete: str) -> list[str]:
    from tamatar_auth.cli.remote.context_file import complete_contexts  # noqa: PLC0415 - slow

    return complete_contexts(incomplete)


def _print_version(is_asked: bool) -> None:  # noqa: FBT001 - the value of an option
    if is_asked:
        typer.echo(__version__)
        raise typer.Exit


def _version_option(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    """Declare the option of every command."""


def _service_options(
    *,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            callback=_store,
            help=f"Call the service at this address [{ADDRESS_VARIABLE}].",
        ),
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            callback=_store,
            autocompletion=_complete_contexts,
            help=f"Call the service of this context [{CONTEXT_VARIABLE}].",
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TOKEN",
            callback=_store,
            help="Present this caller token. Other users of the machine can read it:"
            f" prefer --token-file or a variable [{TOKEN_VARIABLE}].",
        ),
    ] = None,
    token_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            callback=_store,
            help="Present the caller token in this file; /dev/stdin is the input.",
        ),
    ] = None,
) -> None:
    """Declare the options of commands that call a service."""


def _parameters(function: Callable[..., None], *, hidden: bool) -> Sequence[Any]:
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(function)
    found: Sequence[Any] = typer.main.get_command(app).params
    for parameter in found:
        parameter.expose_value = False
        parameter.hidden = hidden
    return found
