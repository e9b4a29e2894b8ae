"""The command `healthcheck`."""

from typing import Annotated

import typer

from tamatar_auth.cli.formats import TextFormat, TextOption
from tamatar_auth.cli.global_options import service_options
from tamatar_auth.cli.output import print_json
from tamatar_auth.cli.remote.health import check_service
from tamatar_auth.cli.remote.service_selection import select_service
from tamatar_auth.client.target import is_local


def healthcheck(
    *,
    timeout: Annotated[float, typer.Option(min=0.1, max=60, help="Seconds to wait.")] = 3.0,
    output: TextOption = TextFormat.TEXT,
    ctx: typer.Context,
) -> None:
    """Check whether a server is healthy. Exit with 1 if it is not.

    On the machine of a server, the server of the settings is checked, with any certificate.
    With --context, with the address of another machine, or if the package of the server is not
    installed, a service is checked as other commands call it.
    """
    status = _own_status(ctx, timeout)
    if status is None:
        status = check_service(select_service(ctx), timeout)
    if output is TextFormat.JSON:
        print_json({"status": status})
    else:
        typer.echo(status)
    raise typer.Exit(0 if status == "SERVING" else 1)


def _own_status(ctx: typer.Context, timeout: float) -> str | None:
    """Return the status of the server on this machine, or None if another one is to be checked."""
    options = service_options(ctx)
    try:
        from tamatar_auth.cli.local import healthcheck as own  # noqa: PLC0415 - needs [server]
    except ModuleNotFoundError:
        return None
    address = options.get("address")
    if "context" in options or not (address is None or is_local(address)):
        return None
    return own.check_own_server(address, timeout)
