"""The command `healthcheck`."""

from typing import Annotated

import typer

from tamatar_auth.cli.local.addresses import parse_address
from tamatar_auth.cli.local.health_probe import check_health, probed_address, tls_files_at
from tamatar_auth.config.addresses import ListenAddress
from tamatar_auth.config.settings import Settings


def healthcheck(
    address: Annotated[
        ListenAddress | None,
        typer.Option(
            parser=parse_address,
            metavar="ADDRESS",
            help="Check this server instead of TAMATAR_HEALTH_LISTEN or TAMATAR_LISTEN.",
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, max=60, help="Seconds to wait.")] = 3.0,
) -> None:
    """Check whether a server is healthy. Exit with 1 if it is not."""
    settings = Settings.load()
    address = address or probed_address(settings)
    status = check_health(address, timeout, tls_files_at(settings, address))
    typer.echo(status)
    raise typer.Exit(0 if status == "SERVING" else 1)
