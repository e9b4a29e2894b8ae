"""Describes the differences that alembic finds between a database and the tables of the code."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import Column, Table


def describe_differences(differences: Iterable[Any]) -> Sequence[str]:
    """Return, for each difference, what a migration would have to do."""
    return [_describe(*difference) for difference in _flatten(differences)]


def _flatten(differences: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    # alembic groups the changes of one column in a list.
    for difference in differences:
        if isinstance(difference, list):
            yield from difference
        else:
            yield difference


def _describe(kind: str, *details: Any) -> str:
    verb = kind.replace("_", " ")
    if kind.startswith("modify_"):
        _schema, table, column, _options, old, new = details
        return f"{verb} of {table}.{column}: {_value(old)} -> {_value(new)}"
    item = details[-1]
    if isinstance(item, Table):
        return f"{verb} {item.name}"
    if isinstance(item, Column):
        return f"{verb} {details[-2]}.{item.name}"
    table = getattr(item, "table", None)
    return f"{verb} {getattr(item, 'name', item)}" + (
        f" of {table.name}" if table is not None else ""
    )


def _value(value: Any) -> str:
    return str(getattr(value, "arg", value))
