"""The form of exceptions and values in log lines.

The texts of database errors contain values: PostgreSQL's DETAIL quotes the row. So a log line
has only the class, the SQLSTATE and the constraint of such an error.
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
"""Characters of one value; the rest is cut."""

_MAX_DEPTH = 4
_MAX_ITEMS = 100

_CONTAINERS = (Mapping, list, tuple, set, frozenset)
_TEXT_TYPES = (UUID, date, time, timedelta, PurePath, IPv4Address, IPv6Address)


def json_value(value: object, depth: int = 0) -> object:
    """Return a value as JSON represents it, and the class name of any other object."""
    value = _to_text(value)
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else f"{value[:MAX_TEXT]}…"
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, BaseException):
        return describe_error(value)
    if isinstance(value, _CONTAINERS) and depth < _MAX_DEPTH and not hasattr(value, "_fields"):
        return _json_items(value, depth + 1)
    # The repr of a message or a row would contain its secrets.
    return f"<{type(value).__qualname__}>"


def describe_error(error: BaseException) -> str:
    """Return an exception as one line: `KeyError: 'x'`, `UniqueViolation (sqlstate 23505)`."""
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
    """Return an exception with its causes and their frames, the first cause first."""
    return "\n".join(_format_lines(error, set()))


def redact_error_texts(text: str, error: BaseException) -> str:
    """Replace the texts of all database errors that caused an error."""
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
    # By attributes, so that a command without a database imports no driver: psycopg's errors
    # have `sqlstate`, and SQLAlchemy's errors of a statement have `orig`.
    return hasattr(error, "sqlstate") or hasattr(error, "orig")


def _is_connection_error(error: BaseException) -> bool:
    """Return whether the text is libpq's own, about hosts and connections, not about rows."""
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
    """Yield an error and all its causes, contexts and members, even suppressed ones."""
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
