"""The output of the commands: tables for people, JSON for scripts."""

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from tamatar_auth.cli.output import print_json
from tamatar_auth.cli.tables import print_table


class OutputFormat(StrEnum):
    """The formats of `--output`."""

    TABLE = "table"
    JSON = "json"


def as_dict(message: Message) -> dict[str, Any]:
    """Return the fields of a message by their names in the proto, also those that are empty."""
    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def show(value: Mapping[str, Any], output: OutputFormat) -> None:
    """Print one resource. A table leaves out what is empty."""
    if output is OutputFormat.JSON:
        print_json(value)
        return
    fields = [(name, _cell(cell)) for name, cell in _flattened(value) if cell not in ("", None, [])]
    print_table(("Field", "Value"), fields)


def show_all(
    values: Sequence[Mapping[str, Any]], output: OutputFormat, columns: Mapping[str, str]
) -> None:
    """Print a list of resources. `columns` maps the fields of a table to its headers."""
    if output is OutputFormat.JSON:
        print_json(list(values))
        return
    rows = [[_cell(value.get(name, "")) for name in columns] for value in values]
    print_table(tuple(columns.values()), rows)


def _flattened(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, part in value.items():
        if isinstance(part, dict):
            yield from _flattened(part, f"{path}{name}.")
        else:
            yield f"{path}{name}", part


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    # A line break in a value would break the row.
    return " ".join(str(value).split("\n"))
