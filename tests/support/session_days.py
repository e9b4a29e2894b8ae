"""Partitions of past days, as a service has them that has run for weeks."""

from datetime import datetime, timedelta

import psycopg
from psycopg import sql

DAY = timedelta(days=1)

_PARENTS = ("sessions", "replaced_tokens")
_MAKE = (
    "CREATE TABLE {child} (LIKE {parent} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)"
    " WITH (vacuum_truncate = false)"
)
_DETACH = "ALTER TABLE {parent} DETACH PARTITION {child}"
_ATTACH = "ALTER TABLE {parent} ATTACH PARTITION {child} FOR VALUES FROM ({begin}) TO ({end})"


def make_past_days(connection: "psycopg.Connection[tuple[object, ...]]", count: int) -> list[str]:
    """Give the last days partitions of their own; return their suffixes, the oldest first."""
    (today,) = connection.execute("SELECT date_trunc('day', now(), 'UTC')").fetchone() or ()
    assert isinstance(today, datetime)
    begins = [today - days * DAY for days in range(count, 0, -1)]
    suffixes = [f"{begin:%Y%m%d}" for begin in begins]
    for parent in _PARENTS:

        def run(
            statement: str, suffix: str, parent: str = parent, **bounds: sql.Composable
        ) -> None:
            names = {
                "parent": sql.Identifier(parent),
                "child": sql.Identifier(f"{parent}_{suffix}"),
            }
            connection.execute(sql.SQL(statement).format(**names, **bounds))

        run(_DETACH, "first")
        oldest = sql.Literal(begins[0])
        run(_ATTACH, "first", begin=sql.SQL("MINVALUE"), end=oldest)
        for begin, suffix in zip(begins, suffixes, strict=True):
            run(_MAKE, suffix)
            run(_ATTACH, suffix, begin=sql.Literal(begin), end=sql.Literal(begin + DAY))
    return suffixes
