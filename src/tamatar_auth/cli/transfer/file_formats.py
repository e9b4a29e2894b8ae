"""The formats of files of users: JSON Lines and CSV, and the columns of both."""

from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from tamatar.auth.v1.portable_user_pb2 import PortableUser
from tamatar.auth.v1.user_pb2 import UserProfile
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
