"""The table printer of every command."""

import shutil
import sys
import unicodedata
from collections.abc import Iterable, Sequence

import typer
from rich.cells import cell_len

from tamatar_auth.cli.output import notify

_GAP = "  "
_CONTROL_CATEGORIES = frozenset({"Cc", "Zl", "Zp"})
"""The characters that would break a row, or that a terminal would obey."""

_REORDERING = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
"""The characters that would show the text after them in another order."""


def print_table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], *, kept: int | None = None
) -> None:
    """Print rows in columns, below their headers if there are any. No cell is shortened.

    A terminal that is too narrow loses the last columns. The first `kept` columns are always
    printed, and every column if `kept` is None.
    """
    lines = [[_one_line(cell) for cell in row] for row in ([headers] if headers else []) + [*rows]]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    shown = len(widths)
    if kept is not None and sys.stdout.isatty():
        shown = max(kept, _fitting(widths, shutil.get_terminal_size().columns))
    for line in lines:
        typer.echo(_GAP.join(map(_padded, line[:shown], widths)).rstrip())
    if dropped := headers[shown:]:
        notify(f"Columns without room: {', '.join(dropped)}. Use -o wide to print them.")


def _fitting(widths: Sequence[int], available: int) -> int:
    """Return how many of the first columns fit into a line."""
    ends = [sum(widths[:count]) + len(_GAP) * (count - 1) for count in range(1, len(widths) + 1)]
    return sum(end <= available for end in ends)


def _padded(cell: str, width: int) -> str:
    return cell + " " * (width - cell_len(cell))


def _one_line(text: str) -> str:
    """Return a text without line breaks, and with its control characters written out."""
    return "".join(
        (" " if char in "\n\r\t" else char.encode("unicode_escape").decode())
        if unicodedata.category(char) in _CONTROL_CATEGORIES
        or unicodedata.bidirectional(char) in _REORDERING
        else char
        for char in text
    )
