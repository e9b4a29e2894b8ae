"""What nobody needs any more: finds and removes it, a batch at a time."""

from collections.abc import Mapping
from datetime import timedelta
from enum import Enum
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, delete, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from tamatar_auth.storage.advisory_locks import LOCK_NAMESPACE, AdvisoryLock
from tamatar_auth.storage.repositories.keyset import rows
from tamatar_auth.storage.tables import password_attempts, replaced_tokens, sessions, user_tokens

TOKENS_A_SESSION = 10
"""How many replaced tokens are removed at a time, for each session of a batch."""


class Remains(Enum):
    """A kind of rows that are kept for a while and then removed."""

    ENDED_SESSIONS = "ended_sessions"
    EXPIRED_SESSIONS = "expired_sessions"
    EXPIRED_SECRETS = "expired_secrets"
    FORGOTTEN_ATTEMPTS = "forgotten_attempts"

    @property
    def table(self) -> Table:
        """The table that the rows are in."""
        match self:
            case Remains.EXPIRED_SECRETS:
                return user_tokens
            case Remains.FORGOTTEN_ATTEMPTS:
                return password_attempts
            case _:
                return sessions


class SweepRepository:
    """Counts and removes remains over one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def begin(self) -> bool:
        """Keep other sweepers out until the transaction ends; tell whether that worked."""
        # Not a lock of the connection: a pooler may give that to somebody else.
        lock = func.pg_try_advisory_xact_lock(LOCK_NAMESPACE, AdvisoryLock.SWEEP)
        return bool((await self._connection.execute(select(lock))).scalar_one())

    async def count(self, kept: Mapping[Remains, timedelta]) -> Mapping[Remains, int]:
        """Count what `remove` would find of each kind, given how long it is kept."""
        counts = [
            select(func.count())
            .select_from(remains.table)
            .where(_past(remains, long))
            .scalar_subquery()
            for remains, long in kept.items()
        ]
        found = (await self._connection.execute(select(*counts))).one()
        return dict(zip(kept, found, strict=True))

    async def lighten(self, remains: Remains, kept: timedelta, *, limit: int) -> bool:
        """Remove replaced tokens of the sessions that `remove` takes next; tell whether all.

        A session that was refreshed often has thousands, and to remove them along with it
        could take longer than a statement may.
        """
        if remains.table is not sessions:
            return True
        batch = _batch(remains, kept, limit)
        most = limit * TOKENS_A_SESSION
        tokens = (
            select(replaced_tokens.c.token_digest)
            .where(replaced_tokens.c.session_id.in_(batch))
            .limit(rows(most))
        )
        removed = await self._connection.execute(
            delete(replaced_tokens).where(replaced_tokens.c.token_digest.in_(tokens))
        )
        return removed.rowcount < most

    async def remove(self, remains: Remains, kept: timedelta, *, limit: int) -> int:
        """Remove up to `limit` rows that are past their retention, and return how many.

        Rows that somebody else has locked are left for the next time.
        """
        key = tuple_(*remains.table.primary_key.columns)
        batch = _batch(remains, kept, limit).with_for_update(skip_locked=True).cte("batch")
        removed = await self._connection.execute(
            delete(remains.table).where(key.in_(select(*batch.columns)))
        )
        return removed.rowcount


def _batch(remains: Remains, kept: timedelta, limit: int) -> Select[Any]:
    """Find rows that are past their retention along their index, however many there are."""
    return (
        select(*remains.table.primary_key.columns)
        .where(_past(remains, kept))
        .order_by(_end(remains))
        .limit(rows(limit))
    )


def _past(remains: Remains, kept: timedelta) -> ColumnElement[bool]:
    """Tell the rows that are past their retention.

    A revoked session is kept as an ended one, also once its time would have run out. The
    attempts on a password that exists are kept until it is right or reset: they count
    however long they took.
    """
    old = _end(remains) <= func.now() - kept
    match remains:
        case Remains.EXPIRED_SESSIONS:
            return sessions.c.is_valid & old
        case Remains.FORGOTTEN_ATTEMPTS:
            return password_attempts.c.user_id.is_(None) & old
        case _:
            return old


def _end(remains: Remains) -> ColumnElement[Any]:
    """Give the moment from which on a row is kept."""
    match remains:
        case Remains.ENDED_SESSIONS:
            return sessions.c.revoked_at
        case Remains.EXPIRED_SESSIONS:
            return sessions.c.expires_at
        case Remains.EXPIRED_SECRETS:
            return user_tokens.c.expires_at
        case Remains.FORGOTTEN_ATTEMPTS:
            return password_attempts.c.last_tried_at
