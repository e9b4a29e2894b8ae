"""Reads files of users row by row."""

import contextlib
import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import IO, Any

from google.protobuf.timestamp_pb2 import Timestamp

from tamatar.auth.v1.portable_user_pb2 import PortableUser
from tamatar.auth.v1.user_pb2 import UserProfile
from tamatar_auth.cli.exits import usage_error
from tamatar_auth.cli.transfer.file_formats import (
    BOOLEAN_FIELDS,
    COLUMNS,
    KEPT_COLUMN,
    PROFILE_FIELDS,
    TEXT_FIELDS,
    FileFormat,
    InvalidRow,
    Row,
)

MAX_LINE_LENGTH = 256 * 1024
"""Characters of a row. The limit of a request is lower."""

_TWICE = object()
"""Stands for the values of a field that a JSON object has twice."""

_TYPE_NAMES = {str: "a text", bool: "true or false"}
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def read_rows(file: IO[str], file_format: FileFormat) -> Iterator[Row]:
    """Return the rows of a file. Its header is read and checked at once."""
    return _read_json_lines(file) if file_format is FileFormat.JSONL else _read_csv(file)


def _read_json_lines(file: IO[str]) -> Iterator[Row]:
    number = 0
    while text := file.readline(MAX_LINE_LENGTH):
        number += 1
        if len(text) == MAX_LINE_LENGTH and not text.endswith("\n"):
            while (rest := file.readline(MAX_LINE_LENGTH)) and not rest.endswith("\n"):
                pass
            yield Row(number, InvalidRow("", "is too long"))
        elif text.strip():
            yield Row(number, _parse_row(partial(_parse_object, text)))


def _read_csv(file: IO[str]) -> Iterator[Row]:
    table = csv.DictReader(file, strict=True)
    with _csv_errors(table):
        _check_header(table.fieldnames or ())
    return _read_csv_rows(table)


def _read_csv_rows(table: "csv.DictReader[str]") -> Iterator[Row]:
    with _csv_errors(table):
        for cells in table:
            yield Row(table.line_num, _parse_row(partial(_fields_from_cells, cells)))


def _check_header(names: Sequence[str]) -> None:
    unknown = sorted(set(names) - set(COLUMNS))
    if unknown or "email" not in names:
        found = f" Unknown: {', '.join(map(repr, unknown))}." if unknown else ""
        raise usage_error(
            "The first line must name the column email, and only columns of"
            f" {', '.join(COLUMNS)}.{found}"
        )
    if len(set(names)) < len(names):
        raise usage_error("The first line names a column twice.")


@contextlib.contextmanager
def _csv_errors(table: "csv.DictReader[str]") -> Iterator[None]:
    try:
        yield
    except csv.Error as error:
        raise usage_error(f"Line {table.line_num + 1} is not CSV: {error}.") from None


def _parse_row(read_record: Callable[[], Mapping[str, Any]]) -> PortableUser | InvalidRow:
    try:
        return _parse_user(read_record())
    except InvalidRow as invalid:
        return invalid


def _parse_object(text: str) -> Mapping[str, Any]:
    try:
        record = json.loads(text, object_pairs_hook=_read_object)
    except (ValueError, RecursionError):
        raise InvalidRow("", "is not JSON") from None
    if not isinstance(record, dict):
        raise InvalidRow("", "is not a JSON object")
    return record


def _read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    counts = Counter(name for name, _ in pairs)
    return {name: value if counts[name] == 1 else _TWICE for name, value in pairs}


def _fields_from_cells(cells: Mapping[Any, Any]) -> Mapping[str, Any]:
    """Return the cells that are not empty as the fields of a JSON row."""
    if None in cells or None in cells.values():
        raise InvalidRow("", "must have as many cells as the first line")
    record: dict[str, Any] = {}
    profile: dict[str, Any] = {}
    for name, text in cells.items():
        if not text or name == KEPT_COLUMN:
            continue
        if name in BOOLEAN_FIELDS:
            record[name] = _parse_boolean(name, text)
        elif name.startswith("profile."):
            profile[name.removeprefix("profile.")] = text
        else:
            record[name] = text
    return record | ({"profile": profile} if profile else {})


def _parse_boolean(name: str, text: str) -> bool:
    if text.lower() not in _BOOLEANS:
        raise InvalidRow(name, "must be true or false")
    return _BOOLEANS[text.lower()]


def _parse_user(record: Mapping[str, Any]) -> PortableUser:
    user = PortableUser()
    for name, value in record.items():
        if value is _TWICE:
            raise InvalidRow(name if name in user.DESCRIPTOR.fields_by_name else "", _twice(name))
        if value is None or name == KEPT_COLUMN:
            continue
        if name in TEXT_FIELDS:
            _set_field(user, name, value, str)
        elif name in BOOLEAN_FIELDS:
            _set_field(user, name, value, bool)
        elif name == "create_time":
            user.create_time.CopyFrom(_parse_timestamp(value))
        elif name == "profile" and isinstance(value, dict):
            _set_profile(user.profile, value)
        else:
            raise InvalidRow(name if name == "profile" else "", _unknown_field_rule(name))
    return user


def _set_profile(profile: UserProfile, record: Mapping[str, Any]) -> None:
    for name, value in record.items():
        if name not in PROFILE_FIELDS:
            raise InvalidRow("profile", _unknown_field_rule(name))
        if value is _TWICE:
            raise InvalidRow(f"profile.{name}", _twice(name))
        if value is not None:
            _set_field(profile, name, value, str, "profile.")


def _set_field(message: Any, name: str, value: Any, expected_type: type, path: str = "") -> None:
    if not isinstance(value, expected_type):
        raise InvalidRow(f"{path}{name}", f"must be {_TYPE_NAMES[expected_type]}")
    try:
        setattr(message, name, value)
    except ValueError:
        raise InvalidRow(f"{path}{name}", "must be UTF-8") from None


def _parse_timestamp(value: Any) -> Timestamp:
    timestamp = Timestamp()
    try:
        timestamp.FromJsonString(value)
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise InvalidRow("create_time", "must be a time such as 2026-11-22T18:01:07Z") from None
    return timestamp


def _twice(name: str) -> str:
    return f"has a field twice: {name!r:.80}"


def _unknown_field_rule(name: str) -> str:
    return "must be an object" if name == "profile" else f"has an unknown field: {name!r:.80}"
