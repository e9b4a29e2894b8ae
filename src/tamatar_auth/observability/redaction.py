"""What of an exception and of a value may stand in a log line.

The texts of database errors name values: PostgreSQL's DETAIL quotes the row. Of those errors
only the class, the SQLSTATE and the constraint are told.
"""

import enum
import math
import traceback
from collections.abc import Collection, Iterator, Mapping
from datetime import date, time, timedelta
from ipaddress import IPv4Address, IPv6Address
from pathlib import PurePath
from uuid import UUID

MAX_TEXT = 4096
"""The most characters of one value."""

_MAX_DEPTH = 4
_MAX_ITEMS = 100

_CONTAINERS = (Mapping, list, tuple, set, frozenset)
_TEXT_TYPES = (UUID, date, time, timedelta, PurePath, IPv4Address, IPv6Address)


def json_value(value: object, depth: int = 0) -> object:
    """Return a value as JSON knows it; of an object that JSON does not know, its class."""
    value = _to_text(value)
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else f"{value[:MAX_TEXT]}…"
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, BaseException):
        return describe_error(value)
    if isinstance(value, _CONTAINERS) and depth < _MAX_DEPTH and not hasattr(value, "_fields"):
        return _json_items(value, depth + 1)
    # The repr of a message or of a row tells what is in it.
    return f"<{type(value).__qualname__}>"


def describe_error(error: BaseException) -> str:
    """Tell an exception in a line: `KeyError: 'x'`, `UniqueViolation (sqlstate 23505)`."""
    if not _is_database_error(error):
        rendered_line = "".join(traceback.format_exception_only(error)).rstrip()
        return redact_error_texts(rendered_line, error)[:MAX_TEXT]
    cause = getattr(error, "orig", None) or error
    facts = {
        "sqlstate": getattr(cause, "sqlstate", None),
        "constraint": getattr(getattr(cause, "diag", None), "constraint_name", None),
    }
    known = ", ".join(f"{name} {fact}" for name, fact in facts.items() if fact)
    name = type(cause).__qualname__
    if known:
        return f"{name} ({known})"
    return f"{name}: {cause}" if _is_connection_error(cause) else name


def format_error(error: BaseException) -> str:
    """Write an exception with its causes and the frames of each, the first cause first."""
    return "\n".join(_format_lines(error, set()))


def redact_error_texts(text: str, error: BaseException) -> str:
    """Replace the texts of database errors behind an error, wherever they are quoted."""
    for related in _related_errors(error):
        if _is_database_error(related):
            for quoted in (repr(related), str(related), repr(str(related))[1:-1]):
                text = text.replace(quoted, describe_error(related)) if quoted else text
    return text


def _to_text(value: object) -> object:
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, type):
        return value.__qualname__
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, _TEXT_TYPES) else value


def _json_items(value: object, depth: int) -> object:
    if isinstance(value, Mapping):
        items = list(value.items())[:_MAX_ITEMS]
        return {str(json_value(key, depth)): json_value(item, depth) for key, item in items}
    assert isinstance(value, Collection)  # noqa: S101 - for the type checker
    return [json_value(item, depth) for item in list(value)[:_MAX_ITEMS]]


def _is_database_error(error: BaseException) -> bool:
    # By their attributes, so that a command without a database does not import its drivers:
    # psycopg's errors have `sqlstate`, SQLAlchemy's that came of a statement have `orig`.
    return hasattr(error, "sqlstate") or hasattr(error, "orig")


def _is_connection_error(error: BaseException) -> bool:
    """Whether libpq itself speaks: of hosts and refusals, without a row in sight."""
    return hasattr(error, "sqlstate") and any(
        base.__name__ == "OperationalError" for base in type(error).__mro__
    )


def _format_lines(error: BaseException, seen: set[int]) -> Iterator[str]:
    seen.add(id(error))
    previous = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if previous is not None and id(previous) not in seen:
        yield from _format_lines(previous, seen)
        yield "\nwhich led to\n"
    yield "Traceback (most recent call last):"
    yield "".join(traceback.format_tb(error.__traceback__)) + describe_error(error)
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield "\nwith, in the group,\n"
            yield from _format_lines(member, seen)


def _related_errors(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all that is behind it, shown or not."""
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        related = pending.pop()
        if related is None or id(related) in seen:
            continue
        seen.add(id(related))
        yield related
        pending += [related.__cause__, related.__context__]
        if isinstance(related, BaseExceptionGroup):
            pending += related.exceptions
