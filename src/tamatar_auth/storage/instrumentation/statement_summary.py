"""What a statement is about: its operation and its tables, read from the statement itself."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from sqlalchemy import (
    CTE,
    CompoundSelect,
    Delete,
    Insert,
    Join,
    Select,
    Table,
    Update,
    UpdateBase,
)
from sqlalchemy.engine import Compiled
from sqlalchemy.sql.selectable import AliasedReturnsRows

_OPERATIONS: dict[type, str] = {
    Select: "SELECT",
    CompoundSelect: "SELECT",
    Insert: "INSERT",
    Update: "UPDATE",
    Delete: "DELETE",
}

# The first word after white space, comments and parentheses.
_KEYWORD = re.compile(r"(?:\s|\(|--[^\n]*\n|/\*.*?\*/)*([A-Za-z]{1,32})", re.DOTALL)


class StatementSummary(NamedTuple):
    """What a statement is about, in few enough values for a metric."""

    operation: str
    table: str | None
    """The table that is changed, or the first that is read; None in text."""
    description: str
    """The operation and all its tables, as in `SELECT sessions users`."""


# An entry goes when SQLAlchemy's own cache forgets the compiled statement.
_summaries: WeakKeyDictionary[Compiled, StatementSummary] = WeakKeyDictionary()


def summarize(compiled: Compiled | None, text: str) -> StatementSummary:
    """Tell what a statement is about; `text` counts where nothing was compiled."""
    if compiled is None:
        return _derive(None, text)
    cached = _summaries.get(compiled)
    if cached is None:
        cached = _summaries[compiled] = _derive(compiled.statement, text)
    return cached


def _derive(statement: Any, text: str) -> StatementSummary:
    statement = _change_or_itself(statement)
    operation = _OPERATIONS.get(type(statement)) or _keyword(text)
    tables = list(dict.fromkeys(_tables(statement)))
    return StatementSummary(
        operation, tables[0] if tables else None, " ".join([operation, *tables])
    )


def _change_or_itself(statement: Any) -> Any:
    """Return the change whose rows a statement reads, as in WITH … UPDATE … SELECT."""
    sources = statement.get_final_froms() if isinstance(statement, Select) else ()
    read = (source.element for source in sources if isinstance(source, CTE))
    return next((element for element in read if isinstance(element, UpdateBase)), statement)


def _keyword(text: str) -> str:
    found = _KEYWORD.match(text)
    return found[1].upper() if found else "OTHER"


def _tables(clause: Any) -> Iterator[str]:
    """Yield the tables of a statement or of its FROM, from left to right."""
    match clause:
        case Table():
            yield clause.name
        case Insert() | Update() | Delete():
            yield from _tables(clause.table)
        case Join():
            yield from _tables(clause.left)
            yield from _tables(clause.right)
        case AliasedReturnsRows():
            yield from _tables(clause.element)
        case CompoundSelect():
            for part in clause.selects:
                yield from _tables(part)
        case Select():
            for source in clause.get_final_froms():
                yield from _tables(source)
