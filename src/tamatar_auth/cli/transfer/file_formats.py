"""The formats of files of users, JSON Lines and CSV: their columns, and writing them."""

import csv
import json
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, NamedTuple

from tamatar.auth.v1.portable_user_pb2 import PortableUser
from tamatar.auth.v1.user_pb2 import UserProfile
from tamatar.auth.v1.user_service_pb2 import ExportedUser
from tamatar_auth.cli.exits import usage_error

KEPT_COLUMN = "password_kept"
"""The column that exports write and imports ignore."""

TEXT_FIELDS = (
    "user_id",
    "email",
    "username",
    "password_hash",
    "first_name",
    "last_name",
    "avatar_url",
)
PROFILE_FIELDS = tuple(UserProfile.DESCRIPTOR.fields_by_name)
BOOLEAN_FIELDS = ("email_verified", "is_active")
COLUMNS = (
    *TEXT_FIELDS,
    *(f"profile.{name}" for name in PROFILE_FIELDS),
    *BOOLEAN_FIELDS,
    "create_time",
    KEPT_COLUMN,
)


class FileFormat(StrEnum):
    """The formats of files."""

    JSONL = "jsonl"
    CSV = "csv"

    @classmethod
    def detect(cls, path: Path, explicit: "FileFormat | None") -> "FileFormat":
        """Return the explicit format, or the one that the name of the file implies."""
        if explicit is not None:
            return explicit
        known = {".jsonl": cls.JSONL, ".ndjson": cls.JSONL, ".csv": cls.CSV}
        if path.suffix.lower() not in known:
            raise usage_error("The file's name ends neither in .jsonl nor in .csv: use --format.")
        return known[path.suffix.lower()]


class InvalidRow(Exception):  # noqa: N818 - a result of an import, like a refusal
    """A row that is not a user. `field` is the wrong field, or empty."""

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(f"{field} {rule}".strip())
        self.field, self.rule = field, rule


class Row(NamedTuple):
    """A user in a file, or the error in its place, and the line where the row ends."""

    line: int
    user: PortableUser | InvalidRow


def user_writer(
    file: IO[str], file_format: FileFormat, *, with_header: bool
) -> Callable[[ExportedUser], object]:
    """Return a function that writes a user to a file."""
    if file_format is FileFormat.JSONL:
        return lambda exported: file.write(
            json.dumps(_exported_fields(exported), ensure_ascii=False) + "\n"
        )
    table = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
    if with_header:
        table.writeheader()
    return lambda exported: table.writerow(_flattened(_exported_fields(exported)))


def _exported_fields(exported: ExportedUser) -> dict[str, Any]:
    """Return the fields of a user that are not empty."""
    user = exported.user
    profile = {name: text for name in PROFILE_FIELDS if (text := getattr(user.profile, name))}
    return {
        **{name: text for name in TEXT_FIELDS if (text := getattr(user, name))},
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
