"""The partitions of sessions and replaced tokens: made ahead, and dropped as a whole.

A partition holds the sessions that expire on one day, or on a few days in a row. The first one
holds all sessions of before the tables had partitions, and is never dropped.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, bindparam, exists, func, literal_column, select, text
from sqlalchemy.types import DateTime, Interval

from tamatar_auth.storage.repositories import Repository
from tamatar_auth.storage.tables import replaced_tokens, sessions


class SessionDay(NamedTuple):
    """A partition. Its `begin` is None if it is the first one, or is no longer attached."""

    name: str
    parent: str
    begin: datetime | None
    end: datetime | None
    is_past: bool
    """Whether all sessions of the partition have expired."""
    is_attached: bool
    is_detaching: bool
    """Whether an interrupted statement has begun to detach it."""

    @property
    def is_first(self) -> bool:
        """Whether the partition holds the sessions of before there were partitions."""
        return self.is_attached and self.begin is None


_make = text(
    "SELECT make_session_days(now() + CAST(:ahead AS interval), CAST(:width AS integer))"
).bindparams(bindparam("ahead", type_=Interval))

# A sweep that was interrupted leaves tables that are detached, and not dropped. The parameter
# distinguishes them from an operator's copies of such a name.
_list = text(r"""
    SELECT child.relname, parent.relname, begun, ended,
           coalesce(ended <= now(), true), inhparent IS NOT NULL, coalesce(inhdetachpending, false)
    FROM pg_class AS parent
    JOIN pg_class AS child ON child.relnamespace = parent.relnamespace AND child.relkind = 'r'
         AND child.relname ~ ('^' || parent.relname || '_(\d{8}|first)$')
    LEFT JOIN pg_inherits ON inhrelid = child.oid AND inhparent = parent.oid,
    LATERAL (SELECT pg_get_expr(child.relpartbound, child.oid)) AS bounds (range),
    LATERAL (
        SELECT CAST(substring(range FROM 'FROM \(''(.*?)''\)') AS timestamptz),
               CAST(substring(range FROM 'TO \(''(.*?)''\)') AS timestamptz)
    ) AS period (begun, ended)
    WHERE parent.oid IN (to_regclass(:first), to_regclass(:second))
      AND (inhparent IS NOT NULL OR 'vacuum_truncate=false' = ANY (child.reloptions))
    ORDER BY inhdetachpending DESC NULLS LAST, parent.relname DESC, ended NULLS FIRST
""").bindparams(first=sessions.name, second=replaced_tokens.name)

first_partition_end: ColumnElement[datetime] = literal_column(
    r"(SELECT CAST(substring(pg_get_expr(relpartbound, oid) FROM 'TO \(''(.*?)''\)')"
    " AS timestamptz) FROM pg_class WHERE oid = to_regclass('sessions_first'))",
    DateTime(timezone=True),
)
"""Where the first partition of sessions ends. A subquery, so that others are not read."""

_is_retained = select(
    exists().where(
        sessions.c.expires_at >= bindparam("begin"),
        sessions.c.expires_at < bindparam("end"),
        sessions.c.revoked_at > func.now() - bindparam("retention", type_=Interval),
    )
).execution_options(summary="SELECT sessions")


# Calls look for replaced tokens in all partitions, so this waits for a lock for a moment only. The
# release before writes all its tokens here. Ids of sessions are in the order of their creation.
_FORGET_FIRST_TOKENS = """
DO $$
BEGIN
    IF EXISTS (SELECT FROM replaced_tokens_first) AND NOT EXISTS (
        SELECT FROM replaced_tokens_first
        WHERE session_id >= (
            SELECT id FROM sessions WHERE expires_at > now() ORDER BY id LIMIT 1
        )
    ) THEN
        SET LOCAL lock_timeout = '50ms';
        TRUNCATE replaced_tokens_first;
    END IF;
END
$$
"""


class SessionDayRepository(Repository):
    """Makes and drops partitions over one connection."""

    async def make(self, *, ahead: timedelta, width: int) -> int:
        """Make the missing partitions up to `ahead` from now, of `width` days; return how many.

        Calls at the same time wait for each other. Other statements do not wait for them.
        """
        values = {"ahead": ahead, "width": width}
        return int((await self._connection.execute(_make, values)).scalar_one())

    async def list(self) -> Sequence[SessionDay]:
        """Return all partitions, first those that an interrupted sweep has begun to drop."""
        return [SessionDay._make(row) for row in await self._connection.execute(_list)]

    async def is_retained(self, day: SessionDay, retention: timedelta) -> bool:
        """Return whether the partition has sessions that were revoked within their retention."""
        values = {"begin": day.begin, "end": day.end, "retention": retention}
        return bool((await self._connection.execute(_is_retained, values)).scalar_one())

    async def drop(self, day: SessionDay) -> None:
        """Drop a partition. It must not run in a transaction.

        The statements wait for transactions that use the partition, and no others wait for them.
        If they are interrupted, the next call continues.
        """
        if day.is_attached:
            how = "FINALIZE" if day.is_detaching else "CONCURRENTLY"
            await self._run(f"ALTER TABLE {day.parent} DETACH PARTITION {day.name} {how}")
        await self._run(f"DROP TABLE IF EXISTS {day.name}")

    async def forget_first_tokens(self) -> None:
        """Remove the replaced tokens of the first partition, unless a session of them is live."""
        await self._run(_FORGET_FIRST_TOKENS)

    async def _run(self, statement: str) -> None:
        # The names match the pattern of `_list`, so they need no quotes.
        await self._connection.execute(text(statement))
