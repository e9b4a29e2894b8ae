"""The commands `seed` and `sweep`."""

from typing import Annotated

import typer

from tamatar_auth.cli.local.database import with_database
from tamatar_auth.cli.output import notify
from tamatar_auth.config.settings import Settings
from tamatar_auth.jobs import run


def seed() -> None:
    """Create the administrator and the sample users. In production there are no sample users."""
    with with_database(Settings.load()) as settings:
        run.seed(settings, notify)


def sweep(
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count the rows; remove none.")
    ] = False,
) -> None:
    """Remove rows that are past their retention.

    These are sessions, one-time secrets, counts of failed sign-ins, and deleted users.
    """
    with with_database(Settings.load()) as settings:
        run.sweep(settings, notify, dry_run=dry_run)
