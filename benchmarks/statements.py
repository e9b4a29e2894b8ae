"""How many statements PostgreSQL was asked to run."""

from typing import NamedTuple, Self

import psycopg

# Autocommit, so this counts as nothing but itself, which is left out. The last word before a
# semicolon is the beginning or the end of a transaction: a round trip, but no statement.
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
"""What PostgreSQL needs, so that BEGIN and COMMIT count as the round trips that they are."""


class Statements(NamedTuple):
    """How many there were; round trips also begin and end transactions."""

    all: int = 0
    writing: int = 0
    round_trips: int = 0

    @classmethod
    def read(cls, url: str) -> Self:
        """Ask PostgreSQL about a database."""
        with psycopg.connect(url, autocommit=True) as connection:
            row = connection.execute(_COUNT, _VALUES).fetchone()
        return cls(*map(int, row or (0, 0, 0)))

    def plus(self, more: "Statements") -> "Statements":
        """Add some."""
        return Statements(*(one + two for one, two in zip(self, more, strict=True)))

    def since(self, before: "Statements") -> "Statements":
        """Subtract what was before."""
        return Statements(*(now - then for now, then in zip(self, before, strict=True)))
