"""Writes users to a file."""

import csv
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import IO, Any

from tamatar.auth.v1.user_service_pb2 import ExportedUser
from tamatar_auth.cli.transfer.file_formats import (
    BOOLEAN_FIELDS,
    COLUMNS,
    KEPT_COLUMN,
    PROFILE_FIELDS,
    TEXT_FIELDS,
    FileFormat,
)


def user_writer(
    file: IO[str], file_format: FileFormat, *, with_header: bool
) -> Callable[[ExportedUser], None]:
    """Return a function that writes a user to a file."""
    if file_format is FileFormat.JSONL:
        return partial(_write_line, file)
    table = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
    if with_header:
        table.writeheader()
    return partial(_write_cells, table)


def _write_line(file: IO[str], exported: ExportedUser) -> None:
    file.write(json.dumps(_exported_fields(exported), ensure_ascii=False) + "\n")


def _write_cells(table: "csv.DictWriter[str]", exported: ExportedUser) -> None:
    table.writerow(_flattened(_exported_fields(exported)))


def _exported_fields(exported: ExportedUser) -> dict[str, Any]:
    """Return the fields of a user that are not empty."""
    user = exported.user
    texts = {name: getattr(user, name) for name in TEXT_FIELDS if getattr(user, name)}
    profile = {name: text for name in PROFILE_FIELDS if (text := getattr(user.profile, name))}
    return {
        **texts,
        **({"profile": profile} if profile else {}),
        **{name: getattr(user, name) for name in BOOLEAN_FIELDS},
        "create_time": user.create_time.ToJsonString(),
        **({KEPT_COLUMN: True} if exported.password_kept else {}),
    }


def _flattened(record: Mapping[str, Any]) -> dict[str, Any]:
    cells = {f"profile.{name}": text for name, text in record.get("profile", {}).items()}
    for name, value in record.items():
        if name != "profile":
            cells[name] = str(value).lower() if isinstance(value, bool) else value
    return cells
