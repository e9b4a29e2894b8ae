"""The command `serve`."""

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from tamatar_auth import __version__
from tamatar_auth.cli.exits import usage_error
from tamatar_auth.cli.local.addresses import parse_addresses
from tamatar_auth.cli.local.database import require_database, with_database
from tamatar_auth.cli.output import notify
from tamatar_auth.config.addresses import ListenAddress
from tamatar_auth.config.settings import Settings
from tamatar_auth.server.parent_watch import stop_with_parent

ReadyCallback = Callable[[Sequence[ListenAddress]], None]

_WELCOME = """
Tamatar Auth {version} answers calls on {address}. Press Ctrl-C to stop it.

  grpcurl -plaintext {target} list
  grpcurl -plaintext -d '{{"email": "test1@example.com", "password": "TestPass123!"}}' \\
      {target} tamatar.auth.v1.SessionService/CreateSession
"""

AddressesOption = Annotated[
    Any,  # Typer would read several values for an option that is a tuple
    typer.Option(
        parser=parse_addresses,
        metavar="ADDRESS,...",
        help="Listen on these addresses instead of TAMATAR_LISTEN.",
    ),
]


def serve(
    *,
    dev: Annotated[
        bool,
        typer.Option("--dev", help="Start a database, and create its tables and sample users."),
    ] = False,
    listen: AddressesOption = None,
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", help="Start N processes instead of TAMATAR_WORKERS."),
    ] = None,
    exit_with_parent: Annotated[
        int | None, typer.Option("--exit-with-parent", metavar="PID", hidden=True)
    ] = None,
) -> None:
    """Answer calls until SIGTERM or Ctrl-C."""
    overrides = {"listen": listen, "workers": workers}
    settings = Settings.load(
        **{name: value for name, value in overrides.items() if value is not None}
    )
    if exit_with_parent is not None:
        stop_with_parent(exit_with_parent)
    if dev:
        _serve_development(settings)
    else:
        _serve(require_database(settings))


def _serve_development(settings: Settings) -> None:
    if settings.environment == "production":
        raise usage_error(
            "--dev creates sample users with published passwords: it is not for production."
        )
    # A server of production does not load the migrations.
    from tamatar_auth.jobs.run import seed  # noqa: PLC0415
    from tamatar_auth.migrator.migrations import Migrations  # noqa: PLC0415
    from tamatar_auth.storage.driver.connect import libpq_url  # noqa: PLC0415

    with with_database(settings) as database_settings:
        Migrations(libpq_url(database_settings.database), report=notify).upgrade()
        seed(database_settings, notify)
        _serve(database_settings, _welcome)


def _welcome(addresses: Sequence[ListenAddress]) -> None:
    first = addresses[0]
    target = f"-unix {first.path}" if first.path else str(first)
    notify(_WELCOME.format(version=__version__, address=first, target=target))


def _serve(settings: Settings, on_ready: ReadyCallback | None = None) -> None:
    if settings.workers == 1:
        from tamatar_auth.server import run  # noqa: PLC0415 - a supervisor loads no server

        run.serve(settings, on_ready)
    else:
        from tamatar_auth.workers import supervisor  # noqa: PLC0415 - a server loads no supervisor

        sys.exit(supervisor.serve(settings, on_ready))
