"""What nobody needs any more: finds and removes it, a batch at a time."""

from collections.abc import Mapping
from datetime import timedelta
from enum import Enum
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, delete, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from tamatar_auth.storage.advisory_locks import LOCK_NAMESPACE, AdvisoryLock
from tamatar_auth.storage.repositories.keyset import limit_literal
from tamatar_auth.storage.tables import password_attempts, replaced_tokens, sessions, user_tokens

TOKENS_PER_SESSION = 10
"""How many replaced tokens are removed at a time, for each session of a batch."""


class ExpiredRows(Enum):
    """A kind of rows that are kept for a while and then removed."""

    ENDED_SESSIONS = "ended_sessions"
    EXPIRED_SESSIONS = "expired_sessions"
    EXPIRED_SECRETS = "expired_secrets"
    FORGOTTEN_ATTEMPTS = "forgotten_attempts"

    @property
    def table(self) -> Table:
        """The table that the rows are in."""
        match self:
            case ExpiredRows.EXPIRED_SECRETS:
                return user_tokens
            case ExpiredRows.FORGOTTEN_ATTEMPTS:
                return password_attempts
            case _:
                return sessions


class ExpiredRowsRepository:
    """Counts and removes remains over one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def try_lock(self) -> bool:
        """Keep other sweepers out until the transaction ends; tell whether that worked."""
        # Not a lock of the connection: a pooler may give that to somebody else.
        lock = func.pg_try_advisory_xact_lock(LOCK_NAMESPACE, AdvisoryLock.SWEEP)
        return bool((await self._connection.execute(select(lock))).scalar_one())

    async def count(self, retention: Mapping[ExpiredRows, timedelta]) -> Mapping[ExpiredRows, int]:
        """Count what `remove` would find of each kind, given how long it is kept."""
        counts = [
            select(func.count())
            .select_from(kind.table)
            .where(_is_past_retention(kind, period))
            .scalar_subquery()
            for kind, period in retention.items()
        ]
        found = (await self._connection.execute(select(*counts))).one()
        return dict(zip(retention, found, strict=True))

    async def purge_replaced_tokens(
        self, kind: ExpiredRows, retention: timedelta, *, limit: int
    ) -> bool:
        """Remove replaced tokens of the sessions that `remove` takes next; tell whether all.

        A session that was refreshed often has thousands, and to remove them along with it
        could take longer than a statement may.
        """
        if kind.table is not sessions:
            return True
        batch = _batch(kind, retention, limit)
        token_limit = limit * TOKENS_PER_SESSION
        tokens = (
            select(replaced_tokens.c.token_digest)
            .where(replaced_tokens.c.session_id.in_(batch))
            .limit(limit_literal(token_limit))
        )
        removed = await self._connection.execute(
            delete(replaced_tokens).where(replaced_tokens.c.token_digest.in_(tokens))
        )
        return removed.rowcount < token_limit

    async def purge(self, kind: ExpiredRows, retention: timedelta, *, limit: int) -> int:
        """Remove up to `limit` rows that are past their retention, and return how many.

        Rows that somebody else has locked are left for the next time.
        """
        key = tuple_(*kind.table.primary_key.columns)
        batch = _batch(kind, retention, limit).with_for_update(skip_locked=True).cte("batch")
        removed = await self._connection.execute(
            delete(kind.table).where(key.in_(select(*batch.columns)))
        )
        return removed.rowcount


def _batch(kind: ExpiredRows, retention: timedelta, limit: int) -> Select[Any]:
    """Find rows that are past their retention along their index, however many there are."""
    return (
        select(*kind.table.primary_key.columns)
        .where(_is_past_retention(kind, retention))
        .order_by(_retained_since(kind))
        .limit(limit_literal(limit))
    )


def _is_past_retention(kind: ExpiredRows, retention: timedelta) -> ColumnElement[bool]:
    """Tell the rows that are past their retention.

    A revoked session is kept as an ended one, also once its time would have run out. The
    attempts on a password that exists are kept until it is right or reset: they count
    however long they took.
    """
    old = _retained_since(kind) <= func.now() - retention
    match kind:
        case ExpiredRows.EXPIRED_SESSIONS:
            return sessions.c.is_valid & old
        case ExpiredRows.FORGOTTEN_ATTEMPTS:
            return password_attempts.c.user_id.is_(None) & old
        case _:
            return old


def _retained_since(kind: ExpiredRows) -> ColumnElement[Any]:
    """Give the moment from which on a row is kept."""
    match kind:
        case ExpiredRows.ENDED_SESSIONS:
            return sessions.c.revoked_at
        case ExpiredRows.EXPIRED_SESSIONS:
            return sessions.c.expires_at
        case ExpiredRows.EXPIRED_SECRETS:
            return user_tokens.c.expires_at
        case ExpiredRows.FORGOTTEN_ATTEMPTS:
            return password_attempts.c.last_tried_at
