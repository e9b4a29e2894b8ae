"""The partitions of sessions: a job that makes them ahead, and one that drops past ones.

A partition holds the sessions that expire on one day. With a long lifetime or a long retention it
holds those of several days, so that there are never more than about `MAX_PARTITIONS`: a statement
that does not know the day looks into each of them.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from datetime import timedelta

import psycopg
import structlog
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from tamatar_auth.config.settings import Settings
from tamatar_auth.errors import Failure
from tamatar_auth.storage import sqlstates
from tamatar_auth.storage.database import Database, Scope
from tamatar_auth.storage.repositories.session_days import SessionDay
from tamatar_auth.storage.tables import replaced_tokens, sessions

MAX_PARTITIONS = 60

MARGIN = timedelta(days=7)
"""How far the partitions reach beyond the lifetime of a new session."""

MADE_AT_ONCE = 10
"""Partitions that a statement makes. All together could take longer than a statement may."""

INTERVAL = timedelta(hours=1)
"""How often a server checks how far the partitions reach."""

RETRY_INTERVAL = timedelta(minutes=1)
"""The same after a failure."""

_IN_USE = frozenset({"55P03", "57014", "40P01", "55000", "42P01"})
"""A lock or a timeout interrupted the statement, or another process was faster."""

log = structlog.get_logger(__name__)


async def make_days(database: Database, settings: Settings) -> int:
    """Make the missing partitions for sessions that begin from now on, and return how many."""
    lifetime = settings.sessions.lifetime
    days = (lifetime + settings.retention.ended_sessions) / timedelta(days=1)
    width = max(1, math.ceil(days / MAX_PARTITIONS))
    made, ahead, needed = 0, timedelta(0), lifetime + MARGIN
    while ahead < needed:
        ahead = min(ahead + MADE_AT_ONCE * width * timedelta(days=1), needed)
        async with database.transaction() as tx:
            made += await tx.session_days.make(ahead=ahead, width=width)
    return made


async def try_to_make_days(database: Database, settings: Settings) -> bool:
    """Make the missing partitions, or log why that failed; return whether they exist."""
    try:
        async with database.read() as db:
            if not await db.diagnostics.has_tables():
                return False
        made = await make_days(database, settings)
    except (SQLAlchemyError, psycopg.Error, OSError, Failure) as error:
        sqlstate = sqlstates.sqlstate(error)
        log.warning("partitions not made", error=type(error).__name__, sqlstate=sqlstate)
        return False
    if made:
        log.info("partitions made", count=made)
    return True


async def keep_days_ahead(database: Database, settings: Settings) -> None:
    """Make missing partitions once in an `INTERVAL` until cancelled.

    This is no part of the sweep, because a setting disables sweeps.
    """
    while True:
        made = await try_to_make_days(database, settings)
        await asyncio.sleep((INTERVAL if made else RETRY_INTERVAL).total_seconds())


async def drop_past_days(
    database: Database, retention: timedelta, report: Callable[[str], None], *, dry_run: bool
) -> int:
    """Drop the past partitions without retained rows, or only count them in a dry run.

    Return the number of partitions of sessions. Replaced tokens are dropped after the sessions of
    the same days.
    """
    async with database.statements() as db:
        days = await db.session_days.list()
        kept = {day.name for day in days}
        for day in days:
            if day.is_first or not day.is_past or await _is_retained(db, day, retention, kept):
                continue
            if not dry_run and not await _try(db.session_days.drop(day)):
                report(f"{day.name} is in use: it is left to the next sweep")
                break  # PostgreSQL detaches one partition at a time
            kept.remove(day.name)
            report(f"{day.name}: {'to drop' if dry_run else 'dropped'}")
        if not dry_run and any(day.is_first and day.is_past for day in days):
            await _try(db.session_days.forget_first_tokens())
    return sum(day.parent == sessions.name and day.name not in kept for day in days)


async def _is_retained(db: Scope, day: SessionDay, retention: timedelta, kept: set[str]) -> bool:
    """Return whether a past partition has rows to keep: sessions that were revoked lately."""
    if not day.is_attached or day.is_detaching:
        return False
    if day.parent == replaced_tokens.name:
        return day.name.replace(replaced_tokens.name, sessions.name) in kept
    return await db.session_days.is_retained(day, retention)


async def _try(change: Awaitable[None]) -> bool:
    """Change a partition, or return False if a long transaction or another process uses it."""
    try:
        await change
    except DBAPIError as error:
        if sqlstates.sqlstate(error) not in _IN_USE:
            raise
        return False
    return True
