"""The command `version`."""

import typer

from tamatar_auth import __version__


def version() -> None:
    """Print the version."""
    typer.echo(__version__)
