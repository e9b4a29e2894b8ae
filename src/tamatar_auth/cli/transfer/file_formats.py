"""Users in files: JSON Lines and CSV, read a row at a time and written a user at a time."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp

from tamatar.auth.v1.portable_user_pb2 import PortableUser
from tamatar.auth.v1.user_pb2 import UserProfile
from tamatar.auth.v1.user_service_pb2 import ExportedUser
from tamatar_auth.cli.exits import misused

LONGEST_LINE = 256 * 1024
"""Characters of a row; a request may have fewer."""

KEPT = "password_kept"
"""Told by exports, of no meaning to imports."""

TEXTS = (
    *("user_id", "email", "username", "password_hash", "first_name", "last_name", "avatar_url"),
)
PROFILE = tuple(UserProfile.DESCRIPTOR.fields_by_name)
FLAGS = ("email_verified", "is_active")
COLUMNS = (*TEXTS, *(f"profile.{name}" for name in PROFILE), *FLAGS, "create_time", KEPT)

_TRUE = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class Form(StrEnum):
    """The forms of files."""

    JSONL = "jsonl"
    CSV = "csv"

    @classmethod
    def of(cls, path: Path, said: "Form | None") -> "Form":
        """Return the form that was said, or the one that the name of the file tells."""
        if said is not None:
            return said
        known = {".jsonl": cls.JSONL, ".ndjson": cls.JSONL, ".csv": cls.CSV}
        if path.suffix.lower() not in known:
            raise misused("The file's name ends neither in .jsonl nor in .csv: say --format.")
        return known[path.suffix.lower()]


class BadRow(Exception):  # noqa: N818 - told to people, as a refusal is
    """A row that is no user. `field` is the one that is wrong, or empty."""

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(f"{field} {rule}".strip())
        self.field, self.rule = field, rule


class Row(NamedTuple):
    """A user of a file, or what is wrong with it, and the line where it ends."""

    line: int
    user: PortableUser | BadRow


def read(file: IO[str], form: Form) -> Iterator[Row]:
    """Read users, one after the other."""
    return _from_lines(file) if form is Form.JSONL else _from_csv(file)


def writer(file: IO[str], form: Form, *, with_header: bool) -> Callable[[ExportedUser], None]:
    """Return what writes a user to a file."""
    if form is Form.JSONL:
        return partial(_write_line, file)
    table = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
    if with_header:
        table.writeheader()
    return partial(_write_cells, table)


def _write_line(file: IO[str], one: ExportedUser) -> None:
    file.write(json.dumps(_told(one), ensure_ascii=False) + "\n")


def _write_cells(table: "csv.DictWriter[str]", one: ExportedUser) -> None:
    table.writerow(_flat(_told(one)))


def _from_lines(file: IO[str]) -> Iterator[Row]:
    number = 0
    while text := file.readline(LONGEST_LINE):
        number += 1
        if len(text) == LONGEST_LINE and not text.endswith("\n"):
            while (rest := file.readline(LONGEST_LINE)) and not rest.endswith("\n"):
                pass
            yield Row(number, BadRow("", "is too long"))
        elif text.strip():
            yield Row(number, _user_or_refusal(partial(_object, text)))


def _from_csv(file: IO[str]) -> Iterator[Row]:
    table = csv.DictReader(file, strict=True)
    try:
        unknown = sorted(set(table.fieldnames or ()) - set(COLUMNS))
        if unknown or "email" not in (table.fieldnames or ()):
            names = f" Not {', '.join(map(repr, unknown))}." if unknown else ""
            raise misused(f"The first line must name columns of {', '.join(COLUMNS)}.{names}")
        if len(set(table.fieldnames or ())) < len(table.fieldnames or ()):
            raise misused("The first line names a column twice.")
        for cells in table:
            yield Row(table.line_num, _user_or_refusal(partial(_nested, cells)))
    except csv.Error as error:
        raise misused(f"Line {table.line_num + 1} is no CSV: {error}.") from None


def _user_or_refusal(said: Callable[[], Mapping[str, Any]]) -> PortableUser | BadRow:
    try:
        return _user(said())
    except BadRow as refusal:
        return refusal


def _object(text: str) -> Mapping[str, Any]:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        raise BadRow("", "is no JSON") from None
    if not isinstance(said, dict):
        raise BadRow("", "is no JSON object")
    return said


def _nested(cells: Mapping[Any, Any]) -> Mapping[str, Any]:
    """Give the cells that are not empty as JSON would have them."""
    if None in cells or None in cells.values():
        raise BadRow("", "has another number of cells than the first line")
    said: dict[str, Any] = {}
    profile: dict[str, Any] = {}
    for name, text in cells.items():
        if not text or name == KEPT:
            continue
        if name in FLAGS:
            said[name] = _flag(name, text)
        elif name.startswith("profile."):
            profile[name.removeprefix("profile.")] = text
        else:
            said[name] = text
    return said | ({"profile": profile} if profile else {})


def _flag(name: str, text: str) -> bool:
    if text.lower() not in _TRUE:
        raise BadRow(name, "must be true or false")
    return _TRUE[text.lower()]


def _user(said: Mapping[str, Any]) -> PortableUser:
    user = PortableUser()
    for name, value in said.items():
        if value is None or name == KEPT:
            continue
        if name in TEXTS:
            _set(user, name, value, str)
        elif name in FLAGS:
            _set(user, name, value, bool)
        elif name == "create_time":
            user.create_time.CopyFrom(_moment(value))
        elif name == "profile" and isinstance(value, dict):
            _profile(user.profile, value)
        else:
            raise BadRow(name if name == "profile" else "", _unknown(name))
    return user


def _profile(profile: UserProfile, said: Mapping[str, Any]) -> None:
    for name, value in said.items():
        if name not in PROFILE:
            raise BadRow("profile", _unknown(name))
        if value is not None:
            _set(profile, name, value, str, "profile.")


def _set(message: Any, name: str, value: Any, kind: type, path: str = "") -> None:
    if not isinstance(value, kind):
        raise BadRow(f"{path}{name}", f"must be a {'text' if kind is str else 'true or false'}")
    try:
        setattr(message, name, value)
    except ValueError:
        raise BadRow(f"{path}{name}", "must be UTF-8") from None


def _moment(value: Any) -> Timestamp:
    moment = Timestamp()
    try:
        moment.FromJsonString(value)
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise BadRow("create_time", "must be a time such as 2026-11-22T18:01:07Z") from None
    return moment


def _unknown(name: str) -> str:
    return (
        "must be an object" if name == "profile" else f"has a field that no user has: {name!r:.80}"
    )


def _told(one: ExportedUser) -> dict[str, Any]:
    """Give a user without what is empty."""
    user = one.user
    texts = {name: getattr(user, name) for name in TEXTS if getattr(user, name)}
    profile = {name: text for name in PROFILE if (text := getattr(user.profile, name))}
    return {
        **texts,
        **({"profile": profile} if profile else {}),
        **{name: getattr(user, name) for name in FLAGS},
        "create_time": user.create_time.ToJsonString(),
        **({KEPT: True} if one.password_kept else {}),
    }


def _flat(said: Mapping[str, Any]) -> dict[str, Any]:
    cells = {f"profile.{name}": text for name, text in said.get("profile", {}).items()}
    for name, value in said.items():
        if name != "profile":
            cells[name] = str(value).lower() if isinstance(value, bool) else value
    return cells
