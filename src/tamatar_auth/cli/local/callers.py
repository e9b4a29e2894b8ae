"""The commands about callers."""

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tamatar_auth.security.caller_file_editor import CallerFile
    from tamatar_auth.security.callers import CallerToken

callers = typer.Typer(help="Say which services may call, and as what.", no_args_is_help=True)

MAX_TOKEN_LIFETIME = timedelta(days=3650)
MAX_OVERLAP = timedelta(days=30)


def _token_lifetime(text: str) -> timedelta:
    return _duration(text, timedelta(minutes=1), MAX_TOKEN_LIFETIME)


def _overlap(text: str) -> timedelta:
    return _duration(text, timedelta(0), MAX_OVERLAP)


def _duration(text: str, minimum: timedelta, maximum: timedelta) -> timedelta:
    from tamatar_auth.config.durations import format_duration, parse_duration  # noqa: PLC0415

    try:
        value = parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if not isinstance(value, timedelta) or not minimum <= value <= maximum:
        bounds = f"{format_duration(minimum)} and {format_duration(maximum)}"
        raise typer.BadParameter(f"must be between {bounds}")
    return value


NameArgument = Annotated[str, typer.Argument(help="The caller's name, such as gateway.")]
FileOption = Annotated[
    Path | None, typer.Option("--file", help="The file of callers; TAMATAR_CALLERS_FILE.")
]
ExpiresOption = Annotated[
    Any, typer.Option(parser=_token_lifetime, metavar="DURATION", help="How long the token works.")
]


@callers.command("add")
def add(  # noqa: PLR0913 - options of a command, each named
    name: NameArgument,
    *,
    role: Annotated[list[str], typer.Option(help="validator, accounts or admin; may be repeated.")],
    spiffe_id: Annotated[
        list[str] | None, typer.Option(help="What its certificates say; may be repeated.")
    ] = None,
    dns_name: Annotated[
        list[str] | None, typer.Option(help="What its certificates say; may be repeated.")
    ] = None,
    token: Annotated[
        bool | None,
        typer.Option(
            "--token/--no-token",
            help="Whether it gets a token; without the option, if it has no certificate.",
        ),
    ] = None,
    expires: ExpiresOption = "90d",
    file: FileOption = None,
) -> None:
    """Add a caller, and print its token: the only time that it is seen."""
    from tamatar_auth.security.caller_file_editor import NewCaller  # noqa: PLC0415

    ids, hosts = spiffe_id or (), dns_name or ()
    with_token = not (ids or hosts) if token is None else token
    caller = NewCaller(name, _roles(role), ids, hosts)
    _print_token(_caller_file(file).add(caller, expires if with_token else None))


@callers.command("rotate")
def rotate(
    name: NameArgument,
    *,
    overlap: Annotated[
        Any,
        typer.Option(
            parser=_overlap,
            metavar="DURATION",
            help="How long the token before it still works; 0s ends every other one now.",
        ),
    ] = "24h",
    expires: ExpiresOption = "90d",
    file: FileOption = None,
) -> None:
    """Give a caller a new token, and print it: the only time that it is seen."""
    _print_token(_caller_file(file).rotate(name, overlap, expires))


@callers.command("list")
def show(*, file: FileOption = None) -> None:
    """Show the callers with their roles, the ends of their tokens, and their certificates."""
    from tamatar_auth.cli.local.config import print_callers  # noqa: PLC0415
    from tamatar_auth.security.caller_file import read_callers  # noqa: PLC0415

    print_callers(read_callers(_caller_file_path(file)))


@callers.command("remove")
def remove(name: NameArgument, *, file: FileOption = None) -> None:
    """Remove a caller. Running servers refuse it within a second or two."""
    _caller_file(file).remove(name)


def _roles(names: list[str]) -> Any:
    from tamatar_auth.security.callers import Role  # noqa: PLC0415

    try:
        return [Role(name) for name in names]
    except ValueError:
        raise typer.BadParameter(f"must be {', '.join(Role)}", param_hint="--role") from None


def _caller_file(file: Path | None) -> "CallerFile":
    from tamatar_auth.security.caller_file_editor import CallerFile  # noqa: PLC0415

    return CallerFile(_caller_file_path(file))


def _caller_file_path(file: Path | None) -> Path:
    from tamatar_auth.config.errors import SettingsError  # noqa: PLC0415
    from tamatar_auth.config.settings import Settings  # noqa: PLC0415

    path = file or Settings.load().callers_file
    if path is None:
        raise SettingsError("TAMATAR_CALLERS_FILE: set it, or name a file with --file")
    return path


def _print_token(token: "CallerToken | None") -> None:
    """Print a token alone, so that a script can keep it, and the advice beside it."""
    if token is None:
        return
    typer.echo("Keep this token safe: it is not stored here, and not shown again.", err=True)
    typer.echo(token.text)
