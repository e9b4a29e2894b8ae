"""What of an exception and of a value may stand in a log line.

The texts of database errors name values: PostgreSQL's DETAIL quotes the row. Of those errors
only the class, the SQLSTATE and the constraint are told.
"""

import enum
import math
import traceback
from collections.abc import Iterator, Mapping
from datetime import date, time, timedelta
from ipaddress import IPv4Address, IPv6Address
from pathlib import PurePath
from uuid import UUID

MAX_TEXT = 4096
"""The most characters of one value."""

_MAX_DEPTH = 4
_MAX_ITEMS = 100

_AS_TEXT = (UUID, date, time, timedelta, PurePath, IPv4Address, IPv6Address)


def plain(value: object, depth: int = 0) -> object:
    """Return a value as JSON knows it; of an object that JSON does not know, its class."""
    match value:
        case enum.Enum():
            return value.name
        case str():
            return value if len(value) <= MAX_TEXT else f"{value[:MAX_TEXT]}…"
        case float() if not math.isfinite(value):
            return str(value)
        case None | bool() | int() | float():
            return value
        case BaseException():
            return described(value)
        case type():
            return value.__qualname__
        case Mapping() | list() | tuple() | set() | frozenset() if depth < _MAX_DEPTH:
            return _plain_items(value, depth + 1)
        case _ if isinstance(value, _AS_TEXT):
            return str(value)
    # The repr of a message or of a row tells what is in it.
    return f"<{type(value).__qualname__}>"


def described(error: BaseException) -> str:
    """Tell an exception in a line: `KeyError: 'x'`, `UniqueViolation (sqlstate 23505, …)`."""
    if not _is_of_database(error):
        told = "".join(traceback.format_exception_only(error)).rstrip()
        return without_texts(told, error)[: 2 * MAX_TEXT]
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
    told: list[str] = []
    for link in reversed(list(_chain(error))):
        if told:
            told.append("\nwhich led to\n\n")
        told.append("Traceback (most recent call last):\n")
        told += traceback.format_tb(link.__traceback__)
        told.append(f"{described(link)}\n")
        if isinstance(link, BaseExceptionGroup):
            told += [f"\nin the group:\n\n{rendered(member)}\n" for member in link.exceptions]
    return "".join(told).rstrip()


def without_texts(text: str, error: BaseException) -> str:
    """Replace the texts of database errors among the causes, wherever they are quoted."""
    for link in _family(error):
        if _is_of_database(link):
            for quoted in (repr(link), str(link), repr(str(link))[1:-1]):
                text = text.replace(quoted, described(link)) if quoted else text
    return text


def _plain_items(value: object, depth: int) -> object:
    if isinstance(value, Mapping):
        items = list(value.items())[:_MAX_ITEMS]
        return {str(plain(key, depth)): plain(item, depth) for key, item in items}
    assert isinstance(value, (list, tuple, set, frozenset))  # noqa: S101 - for the type checker
    return [plain(item, depth) for item in list(value)[:_MAX_ITEMS]]


def _is_of_database(error: BaseException) -> bool:
    # By their attributes, so that a command without a database does not import its drivers:
    # psycopg's errors have `sqlstate`, SQLAlchemy's that came of a statement have `orig`.
    return hasattr(error, "sqlstate") or hasattr(error, "orig")


def _is_of_connection(error: BaseException) -> bool:
    """Whether libpq itself speaks: of hosts and refusals, without a row in sight."""
    return "OperationalError" in {base.__name__ for base in type(error).__mro__}


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, its cause, the cause of that and so on."""
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        yield link
        seen.add(id(link))
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _family(error: BaseException) -> Iterator[BaseException]:
    """Yield the causes and the members of groups among them."""
    for link in _chain(error):
        yield link
        if isinstance(link, BaseExceptionGroup):
            for member in link.exceptions:
                yield from _family(member)
