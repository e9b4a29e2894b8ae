"""The command `version`."""

import typer

from tamatar_auth import __version__
from tamatar_auth.cli.formats import TextFormat, TextOption
from tamatar_auth.cli.output import print_json


def version(*, output: TextOption = TextFormat.TEXT) -> None:
    """Print the version."""
    if output is TextFormat.JSON:
        print_json({"version": __version__})
    else:
        typer.echo(__version__)
