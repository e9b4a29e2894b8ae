"""The output of every command besides tables: notices and JSON."""

import json
from typing import Any

import typer


def notify(line: str) -> None:
    """Print a notice for people to stderr; stdout holds the result alone."""
    typer.echo(line, err=True)


def print_json(value: Any) -> None:
    """Print a value for scripts."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
