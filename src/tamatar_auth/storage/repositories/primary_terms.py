"""Terms of primaries: a mark of each timeline, by which a standby shows whom it follows.

A term is one promotion. The numbers of timelines do not identify them, because two standbys may
be promoted to the same number, and positions of the WAL of two timelines cannot be compared.
"""

from sqlalchemy import text

from tamatar_auth.storage.repositories import Repository

_TIMELINE = "left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)"

TERM = f"SELECT CAST(term AS text) FROM primary_terms WHERE timeline = {_TIMELINE}"  # noqa: S608 - a constant
"""A statement for a primary: the id of its term, or no row."""

_begin = text(f"""
    INSERT INTO primary_terms (timeline) VALUES ({_TIMELINE})
    ON CONFLICT (id) DO UPDATE SET timeline = excluded.timeline, term = excluded.term
    WHERE primary_terms.timeline <> excluded.timeline
""")  # noqa: S608 - a constant


class PrimaryTermRepository(Repository):
    """Marks the timelines of primaries over one connection."""

    async def begin(self) -> None:
        """Record a term of this primary, unless there is one for its timeline."""
        await self._connection.execute(_begin)
