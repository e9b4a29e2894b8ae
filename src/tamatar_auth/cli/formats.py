"""The formats of `--output`: tables or text for people, JSON and names for scripts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer

from tamatar_auth.cli.output import print_json
from tamatar_auth.cli.tables import print_table


class OutputFormat(StrEnum):
    """The values of `--output`."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    NAME = "name"


OutputOption = Annotated[
    OutputFormat,
    typer.Option(
        "--output",
        "-o",
        help="Print a table, a table with every column (wide), JSON, or only ids (name).",
    ),
]


class TextFormat(StrEnum):
    """The values of `--output` of commands that print no resources."""

    TEXT = "text"
    JSON = "json"


TextOption = Annotated[
    TextFormat, typer.Option("--output", "-o", help="Print text, or JSON for scripts.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """How a list of resources is printed."""

    field: str
    """The list in the JSON."""

    columns: Mapping[str, str]
    """The header of each field, the most important first. `-o name` prints the first field.

    The field of a field is written with a dot, such as `client.ip_address`.
    """

    kept: int = 1
    """The number of first columns that stay in a narrow terminal."""


_PREFIXES = {"assurance_level": "ASSURANCE_LEVEL_", "kind": "FACTOR_KIND_"}
"""The prefixes of the values of enums, by the fields that have them."""


def show(value: Mapping[str, Any], output: OutputFormat, *, name: str) -> None:
    """Print one resource. A table omits empty fields.

    `-o name` prints the field `name`. A field of a field is written with a dot.
    """
    if output is OutputFormat.JSON:
        print_json(value)
    elif output is OutputFormat.NAME:
        typer.echo(dict(_flattened(value))[name])
    else:
        cells = ((field, _cell(field, part)) for field, part in _flattened(value))
        print_table(("Field", "Value"), [row for row in cells if row[1]])


def show_all(answer: Mapping[str, Any], output: OutputFormat, listing: Listing) -> None:
    """Print an answer that holds a list of resources."""
    if output is OutputFormat.JSON:
        print_json(answer)
        return
    values = [dict(_flattened(value)) for value in answer[listing.field]]
    if output is OutputFormat.NAME:
        for value in values:
            typer.echo(value[next(iter(listing.columns))])
        return
    rows = [[_cell(field, value.get(field)) for field in listing.columns] for value in values]
    kept = None if output is OutputFormat.WIDE else listing.kept
    print_table(tuple(listing.columns.values()), rows, kept=kept)


def _flattened(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, part in value.items():
        if isinstance(part, dict):
            yield from _flattened(part, f"{path}{name}.")
        else:
            yield f"{path}{name}", part


def plain_name(field: str, value: str) -> str:
    """Return an enum's value as people read it, and values of other fields as they are."""
    prefix = _PREFIXES.get(field.rpartition(".")[2])
    if prefix is None:
        return value
    return "" if value == f"{prefix}UNSPECIFIED" else value.removeprefix(prefix)


def _cell(field: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else plain_name(field, str(value))
