"""Summaries of statements: the operation and its tables.

A statement gets its summary where it is built:

    select(...).execution_options(summary="SELECT sessions users")

The summary of a statement without that option is the first word of its text.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

# The first word after white space, comments and parentheses.
_KEYWORD = re.compile(r"(?:\s|\(|--[^\n]*\n|/\*.*?\*/)*([A-Za-z]{1,32})", re.DOTALL)


class StatementSummary(NamedTuple):
    """An operation and its tables, in few enough values for a metric."""

    operation: str
    table: str | None
    """The table that is changed, or the first table that is read."""
    description: str
    """The operation and all its tables, as in `SELECT sessions users`."""


def summarize(options: Mapping[str, Any], text: str) -> StatementSummary:
    """Return the summary in a statement's execution options, or else one of its text."""
    if description := options.get("summary"):
        return _read(description)
    keyword = _KEYWORD.match(text)
    return _read(keyword[1].upper() if keyword else "OTHER")


@lru_cache(maxsize=256)
def _read(description: str) -> StatementSummary:
    operation, *tables = description.split(" ")
    return StatementSummary(operation, tables[0] if tables else None, description)
