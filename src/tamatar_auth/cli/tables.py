"""The table printer of every command."""

import sys
from collections.abc import Iterable, Sequence

import typer
from rich.console import Console
from rich.table import Table

_UNLIMITED_WIDTH = 2500
"""Columns of a table that is not printed to a terminal: each row is one line there."""


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows in columns, below their headers if there are any."""
    table = Table(*headers, box=None, pad_edge=False, show_header=bool(headers))
    for row in rows:
        table.add_row(*row)
    is_terminal = sys.stdout.isatty()
    # A value is printed as it is: nothing in it counts as markup.
    console = Console(
        width=None if is_terminal else _UNLIMITED_WIDTH, markup=False, highlight=False, emoji=False
    )
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        typer.echo(line if is_terminal else line.rstrip())
