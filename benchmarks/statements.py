"""Counting the statements that PostgreSQL ran."""

from typing import NamedTuple, Self

import psycopg

# It runs in autocommit and excludes itself. A statement that begins or ends a transaction counts
# as a round trip only.
_COUNT = """
SELECT
    coalesce(sum(calls) FILTER (WHERE query !~* %(utility)s), 0),
    coalesce(sum(calls) FILTER (WHERE query ~* %(writing)s), 0),
    coalesce(sum(calls), 0)
FROM pg_stat_statements JOIN pg_database ON dbid = pg_database.oid
WHERE datname = current_database() AND query !~ 'pg_stat_statements'
"""
_VALUES = {
    "utility": r"^\s*(BEGIN|START|COMMIT|ROLLBACK|SET|RESET|DEALLOCATE|SHOW)\M",
    "writing": r"\m(INSERT INTO|UPDATE \w+ SET|DELETE FROM)\M",
}

SETTINGS = {"pg_stat_statements.track_utility": "on", "pg_stat_statements.max": "5000"}
"""Settings with which PostgreSQL counts BEGIN and COMMIT too."""


class Statements(NamedTuple):
    """Statements; round trips also include those that begin and end transactions."""

    all: int = 0
    writing: int = 0
    round_trips: int = 0

    @classmethod
    def read(cls, url: str) -> Self:
        """Read the counters of a database."""
        with psycopg.connect(url, autocommit=True) as connection:
            row = connection.execute(_COUNT, _VALUES).fetchone()
        return cls(*map(int, row or (0, 0, 0)))

    def plus(self, more: "Statements") -> "Statements":
        """Return the sum."""
        return Statements(*(one + two for one, two in zip(self, more, strict=True)))

    def since(self, before: "Statements") -> "Statements":
        """Return the difference from earlier counters."""
        return Statements(*(now - then for now, then in zip(self, before, strict=True)))
