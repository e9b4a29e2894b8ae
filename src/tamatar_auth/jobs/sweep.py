"""The sweep: it removes sessions, tokens, challenges, attempts and users past their retention.

Sessions that expired on the same day are dropped together. All other rows are removed in batches:
each batch is a transaction, and a lock lets one process of all replicas sweep at a time.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import partial

import psycopg
import structlog
from sqlalchemy.exc import SQLAlchemyError

from tamatar_auth.config.lifetimes import RetentionSettings
from tamatar_auth.errors import Failure
from tamatar_auth.jobs.session_days import drop_past_days
from tamatar_auth.security import audit
from tamatar_auth.security.audit import Event
from tamatar_auth.storage import sqlstates
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.repositories.expired_rows import ExpiredRows
from tamatar_auth.storage.retry import retry_rolled_back

BATCH_SIZE = 1000
"""Rows that one transaction removes."""

USER_BATCH_SIZE = 100
"""Users that one transaction purges. Their sessions are removed before, `BATCH_SIZE` at a time."""

BATCH_TIMEOUT = 60.0
"""Seconds that a batch may take, together with its retries."""

ATTEMPT_RETENTION = timedelta(days=1)
"""How long the attempts on an address without a user are kept after the last one."""

UNCONFIRMED_RETENTION = timedelta(days=1)
"""How long an authenticator app may stay without its first code."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SweepResult:
    """The number of removed rows, or of rows that a dry run would remove."""

    ended_sessions: int = 0
    expired_sessions: int = 0
    idle_sessions: int = 0
    expired_secrets: int = 0
    expired_challenges: int = 0
    unconfirmed_factors: int = 0
    forgotten_attempts: int = 0
    deleted_users: int = 0
    dropped_partitions: int = 0
    """Partitions of sessions, each with all sessions that expired on one day, or on a few."""
    yielded: bool = False
    """Whether the sweep ended early because another process was sweeping."""


async def sweep(
    database: Database,
    settings: RetentionSettings,
    *,
    dry_run: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> SweepResult:
    """Remove rows past their retention, or only count them in a dry run."""
    if dry_run:
        async with database.read() as db:
            counts = await db.sweeps.count(_retention(database, settings))
        for kind, count in counts.items():
            report(f"{_label(kind)}: {count} to remove")
        result = _result(counts)
    else:
        result = await _remove(database, settings, report)
    if result.yielded:
        return result
    dropped = await drop_past_days(database, settings.ended_sessions, report, dry_run=dry_run)
    return replace(result, dropped_partitions=dropped)


async def sweep_periodically(database: Database, settings: RetentionSettings) -> None:
    """Sweep once in an interval until cancelled; an interval of 0 disables sweeps.

    The first sweep comes at a random time within an interval, so that replicas take turns.
    """
    interval = settings.sweep_interval.total_seconds()
    if interval == 0:
        await asyncio.Event().wait()
    await asyncio.sleep(random.uniform(0, interval))  # noqa: S311 - no secret
    while True:
        try:
            result = await sweep(database, settings)
        except (SQLAlchemyError, psycopg.Error, OSError, Failure) as error:
            log.warning(
                "sweep failed", error=type(error).__name__, sqlstate=sqlstates.sqlstate(error)
            )
        else:
            log.info("swept", **asdict(result))
        await asyncio.sleep(interval * random.uniform(0.9, 1.1))  # noqa: S311 - no secret


async def _remove(
    database: Database, settings: RetentionSettings, report: Callable[[str], None]
) -> SweepResult:
    removed: dict[ExpiredRows, int] = {}
    for kind, retention in _retention(database, settings).items():
        removed[kind], is_done = 0, False
        while not is_done:
            work = (
                partial(_purge_users, database, retention)
                if kind is ExpiredRows.DELETED_USERS
                else partial(_remove_batch, database, kind, retention)
            )
            batch = await retry_rolled_back(work, within=BATCH_TIMEOUT)
            if batch is None:
                report("another process is sweeping: the rest is left to it")
                return _result(removed, yielded=True)
            count, is_done = batch
            removed[kind] += count
            if count or is_done:
                report(f"{_label(kind)}: {removed[kind]} removed")
    await _remove_session_ends(database)
    return _result(removed)


async def _remove_session_ends(database: Database) -> None:
    """Remove the rows for watchers that pile up while there is none."""
    count = BATCH_SIZE
    while count == BATCH_SIZE:
        async with database.statements() as db:
            count = await db.sweeps.remove_session_ends(limit=BATCH_SIZE)


async def _remove_batch(
    database: Database, kind: ExpiredRows, retention: timedelta
) -> tuple[int, bool] | None:
    """Return the number of removed rows, and whether no others are left.

    Return None, and remove nothing, if another process is sweeping.
    """
    async with database.transaction() as tx:
        if not await tx.sweeps.try_lock():
            return None
        count = await tx.sweeps.purge(kind, retention, limit=BATCH_SIZE)
    return count, count < BATCH_SIZE


async def _purge_users(database: Database, retention: timedelta) -> tuple[int, bool] | None:
    """Purge deleted users as PurgeUser does, and return what `_remove_batch` returns."""
    async with database.transaction() as tx:
        if not await tx.sweeps.try_lock():
            return None
        user_ids = await tx.sweeps.lock_deleted_users(retention, limit=USER_BATCH_SIZE)
        if not await tx.sweeps.purge_sessions_of(user_ids, limit=BATCH_SIZE):
            return 0, False
        for user_id in user_ids:
            await tx.users.purge(user_id)
    for user_id in user_ids:
        audit.record(Event.USER_PURGED, user_id=user_id)
    return len(user_ids), len(user_ids) < USER_BATCH_SIZE


def _retention(database: Database, settings: RetentionSettings) -> Mapping[ExpiredRows, timedelta]:
    """Return how long each kind of rows is kept. Kinds without a limit are left out."""
    kept = {
        ExpiredRows.ENDED_SESSIONS: settings.ended_sessions,
        ExpiredRows.EXPIRED_SESSIONS: settings.ended_sessions,
        ExpiredRows.IDLE_SESSIONS: database.idle_limit,
        ExpiredRows.EXPIRED_SECRETS: timedelta(0),
        ExpiredRows.EXPIRED_CHALLENGES: timedelta(0),
        ExpiredRows.UNCONFIRMED_FACTORS: UNCONFIRMED_RETENTION,
        ExpiredRows.FORGOTTEN_ATTEMPTS: ATTEMPT_RETENTION,
        ExpiredRows.DELETED_USERS: settings.deleted_users,
    }
    return {kind: period for kind, period in kept.items() if period is not None}


def _result(counts: Mapping[ExpiredRows, int], *, yielded: bool = False) -> SweepResult:
    return SweepResult(**{it.value: count for it, count in counts.items()}, yielded=yielded)


def _label(kind: ExpiredRows) -> str:
    return kind.value.replace("_", " ")
