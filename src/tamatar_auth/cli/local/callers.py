"""The commands of `caller`."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from tamatar_auth.cli.formats import (
    Listing,
    OutputFormat,
    OutputOption,
    TextFormat,
    TextOption,
    show_all,
)
from tamatar_auth.cli.output import notify, print_json
from tamatar_auth.config.errors import SettingsError
from tamatar_auth.config.settings import Settings
from tamatar_auth.config.types import format_duration, parse_duration
from tamatar_auth.security.caller_file import read_callers
from tamatar_auth.security.caller_file_editor import CallerFile
from tamatar_auth.security.callers import CallerCredentials, CallerToken, Role

MAX_TOKEN_LIFETIME = timedelta(days=3650)
MAX_OVERLAP = timedelta(days=30)

CALLERS = Listing(
    field="callers",
    columns={
        "name": "Caller",
        "roles": "Roles",
        "tokens": "Tokens",
        "certificates": "Certificates",
    },
)


def _token_lifetime(text: str) -> timedelta:
    return _duration(text, timedelta(minutes=1), MAX_TOKEN_LIFETIME)


def _overlap(text: str) -> timedelta:
    return _duration(text, timedelta(0), MAX_OVERLAP)


def _duration(text: str, minimum: timedelta, maximum: timedelta) -> timedelta:
    try:
        value = parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if not isinstance(value, timedelta) or not minimum <= value <= maximum:
        bounds = f"{format_duration(minimum)} and {format_duration(maximum)}"
        raise typer.BadParameter(f"must be between {bounds}")
    return value


NameArgument = Annotated[str, typer.Argument(help="The name of the caller, such as gateway.")]
FileOption = Annotated[
    Path | None, typer.Option("--file", help="Use this file instead of TAMATAR_CALLERS_FILE.")
]
ExpiresOption = Annotated[
    Any,
    typer.Option(
        parser=_token_lifetime, metavar="DURATION", help="Let the token expire after this time."
    ),
]


def add(  # noqa: PLR0913 - options of a command, each named
    name: NameArgument,
    *,
    role: Annotated[
        list[str], typer.Option(help="Grant validator, accounts or admin. May be repeated.")
    ],
    spiffe_id: Annotated[
        list[str] | None,
        typer.Option(help="Accept client certificates with this SPIFFE ID. May be repeated."),
    ] = None,
    dns_name: Annotated[
        list[str] | None,
        typer.Option(help="Accept client certificates with this DNS name. May be repeated."),
    ] = None,
    token: Annotated[
        bool | None,
        typer.Option(
            "--token/--no-token",
            help="Issue a token or none. By default only a caller without certificates gets one.",
        ),
    ] = None,
    expires: ExpiresOption = "90d",
    file: FileOption = None,
    output: TextOption = TextFormat.TEXT,
) -> None:
    """Add a caller and print its token. The token is not shown again."""
    ids, hosts = spiffe_id or (), dns_name or ()
    with_token = not (ids or hosts) if token is None else token
    lifetime, callers = expires if with_token else None, CallerFile(_path(file))
    issued = callers.add(name, _roles(role), lifetime, spiffe_ids=ids, dns_names=hosts)
    if issued is not None:
        _print_token(name, issued, expires, output)


def rotate(
    name: NameArgument,
    *,
    overlap: Annotated[
        Any,
        typer.Option(
            parser=_overlap,
            metavar="DURATION",
            help="Keep the previous token valid for this time; 0s ends all other tokens now.",
        ),
    ] = "24h",
    expires: ExpiresOption = "90d",
    file: FileOption = None,
    output: TextOption = TextFormat.TEXT,
) -> None:
    """Issue a new token and print it. The token is not shown again."""
    _print_token(name, CallerFile(_path(file)).rotate(name, overlap, expires), expires, output)


def show(*, file: FileOption = None, output: OutputOption = OutputFormat.TABLE) -> None:
    """List the callers. Their roles, the ends of their tokens and their certificates are shown."""
    callers = read_callers(_path(file))
    format_end = datetime.isoformat if output is OutputFormat.JSON else _format_end
    show_all({"callers": [_row(each, format_end) for each in callers.known]}, output, CALLERS)


def remove(name: NameArgument, *, file: FileOption = None) -> None:
    """Remove a caller. Running servers reject it within a second or two."""
    CallerFile(_path(file)).remove(name)


def _roles(names: list[str]) -> list[Role]:
    try:
        return [Role(name) for name in names]
    except ValueError:
        raise typer.BadParameter(f"must be one of {', '.join(Role)}", param_hint="--role") from None


def _path(file: Path | None) -> Path:
    path = file or Settings.load().callers_file
    if path is None:
        raise SettingsError("TAMATAR_CALLERS_FILE: set it, or name a file with --file")
    return path


def _row(
    credentials: CallerCredentials, format_end: Callable[[datetime], str]
) -> Mapping[str, Any]:
    return {
        "name": credentials.caller.name,
        "roles": sorted(credentials.caller.roles),
        "tokens": [format_end(end) for end in sorted(credentials.tokens.values())],
        "certificates": sorted(credentials.names),
    }


def _format_end(moment: datetime) -> str:
    word = "until" if moment > datetime.now(UTC) else "ended"
    return f"{word} {moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _print_token(name: str, token: CallerToken, lifetime: timedelta, output: TextFormat) -> None:
    """Print a token to stdout, for scripts, and the advice to stderr."""
    notify(
        "Keep this token safe: it is not stored here and not shown again. "
        f"It expires in {format_duration(lifetime)}."
    )
    if output is TextFormat.JSON:
        print_json({"name": name, "token": token.text, "lifetime": format_duration(lifetime)})
    else:
        typer.echo(token.text)
