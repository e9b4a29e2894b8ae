"""What commands print: tables for people, JSON and YAML for scripts."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message


class OutputFormat(StrEnum):
    """The forms."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def as_dict(message: Message) -> dict[str, Any]:
    """Give a message as scripts see it: named as in the proto, also what is empty."""
    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def show(value: Mapping[str, Any], output: OutputFormat) -> None:
    """Print one thing."""
    if output is OutputFormat.TABLE:
        rows = [
            (name, _cell(cell)) for name, cell in _flattened(value) if cell not in ("", None, [])
        ]
        _print_table(("Field", "Value"), rows)
    else:
        typer.echo(_serialized(value, output))


def show_all(
    values: Sequence[Mapping[str, Any]], output: OutputFormat, columns: Mapping[str, str]
) -> None:
    """Print things of one kind; `columns` has the headers of a table by the names of fields."""
    if output is OutputFormat.TABLE:
        rows = [[_cell(value.get(name, "")) for name in columns] for value in values]
        _print_table(tuple(columns.values()), rows)
    else:
        typer.echo(_serialized(list(values), output))


def notify(line: str) -> None:
    """Tell people something that is not the answer."""
    typer.echo(line, err=True)


def _serialized(value: Any, output: OutputFormat) -> str:
    if output is OutputFormat.JSON:
        return json.dumps(value, indent=2, ensure_ascii=False)
    return "\n".join(_yaml(value)) or "[]"


def _yaml(value: Any, indent: str = "") -> Iterator[str]:
    """Write YAML: texts are written as in JSON, which is YAML, too."""
    match value:
        case dict():
            for name, part in value.items():
                if part and isinstance(part, dict | list):
                    yield f"{indent}{name}:"
                    yield from _yaml(part, indent + "  ")
                else:
                    yield f"{indent}{name}: {json.dumps(part, ensure_ascii=False)}"
        case list():
            for part in value:
                first, *others = _yaml(part, indent + "  ") if part else ("",)
                yield f"{indent}- {first.strip()}"
                yield from others
        case _:
            yield f"{indent}{json.dumps(value, ensure_ascii=False)}"


def _flattened(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, part in value.items():
        if isinstance(part, dict):
            yield from _flattened(part, f"{path}{name}.")
        else:
            yield f"{path}{name}", part


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    # A value of several lines keeps to its own in a table.
    return " ".join(str(value).split("\n"))


def _print_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    grid = Table(*headers, box=None, pad_edge=False)
    for row in rows:
        grid.add_row(*row)
    # A row is a line where no person looks at it, and a value is no markup anywhere.
    is_terminal = sys.stdout.isatty()
    console = Console(
        width=None if is_terminal else 2500, markup=False, highlight=False, emoji=False
    )
    with console.capture() as captured:
        console.print(grid)
    for line in captured.get().splitlines():
        typer.echo(line if is_terminal else line.rstrip())
