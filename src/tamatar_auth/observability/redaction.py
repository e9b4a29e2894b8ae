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
_AS_TEXT = (UUID, date, time, timedelta, PurePath, IPv4Address, IPv6Address)


def plain(value: object, depth: int = 0) -> object:
    """Return a value as JSON knows it; of an object that JSON does not know, its class."""
    value = _as_text(value)
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else f"{value[:MAX_TEXT]}…"
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, BaseException):
        return described(value)
    if isinstance(value, _CONTAINERS) and depth < _MAX_DEPTH and not hasattr(value, "_fields"):
        return _plain_items(value, depth + 1)
    # The repr of a message or of a row tells what is in it.
    return f"<{type(value).__qualname__}>"


def described(error: BaseException) -> str:
    """Tell an exception in a line: `KeyError: 'x'`, `UniqueViolation (sqlstate 23505)`."""
    if not _is_of_database(error):
        told = "".join(traceback.format_exception_only(error)).rstrip()
        return without_texts(told, error)[:MAX_TEXT]
    cause = getattr(error, "orig", None) or error
    facts = {
        "sqlstate": getattr(cause, "sqlstate", None),
        "constraint": getattr(getattr(cause, "diag", None), "constraint_name", None),
    }
    known = ", ".join(f"{name} {fact}" for name, fact in facts.items() if fact)
    name = type(cause).__qualname__
    if known:
        return f"{name} ({known})"
    return f"{name}: {cause}" if _is_of_connection(cause) else name


def rendered(error: BaseException) -> str:
    """Write an exception with its causes and the frames of each, the first cause first."""
    return "\n".join(_told(error, set()))


def without_texts(text: str, error: BaseException) -> str:
    """Replace the texts of database errors behind an error, wherever they are quoted."""
    for link in _family(error):
        if _is_of_database(link):
            for quoted in (repr(link), str(link), repr(str(link))[1:-1]):
                text = text.replace(quoted, described(link)) if quoted else text
    return text


def _as_text(value: object) -> object:
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, type):
        return value.__qualname__
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, _AS_TEXT) else value


def _plain_items(value: object, depth: int) -> object:
    if isinstance(value, Mapping):
        items = list(value.items())[:_MAX_ITEMS]
        return {str(plain(key, depth)): plain(item, depth) for key, item in items}
    assert isinstance(value, Collection)  # noqa: S101 - for the type checker
    return [plain(item, depth) for item in list(value)[:_MAX_ITEMS]]


def _is_of_database(error: BaseException) -> bool:
    # By their attributes, so that a command without a database does not import its drivers:
    # psycopg's errors have `sqlstate`, SQLAlchemy's that came of a statement have `orig`.
    return hasattr(error, "sqlstate") or hasattr(error, "orig")


def _is_of_connection(error: BaseException) -> bool:
    """Whether libpq itself speaks: of hosts and refusals, without a row in sight."""
    return hasattr(error, "sqlstate") and any(
        base.__name__ == "OperationalError" for base in type(error).__mro__
    )


def _told(error: BaseException, seen: set[int]) -> Iterator[str]:
    seen.add(id(error))
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None and id(before) not in seen:
        yield from _told(before, seen)
        yield "\nwhich led to\n"
    yield "Traceback (most recent call last):"
    yield "".join(traceback.format_tb(error.__traceback__)) + described(error)
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield "\nwith, in the group,\n"
            yield from _told(member, seen)


def _family(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all that is behind it, shown or not."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        link = waiting.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        waiting += [link.__cause__, link.__context__]
        if isinstance(link, BaseExceptionGroup):
            waiting += link.exceptions
