"""Rows past their retention: counted, and removed in batches."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from enum import Enum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Column,
    ColumnElement,
    Select,
    Table,
    and_,
    delete,
    func,
    select,
    true,
    tuple_,
)

from tamatar_auth.storage.advisory_locks import LOCK_NAMESPACE, AdvisoryLock
from tamatar_auth.storage.factor_tables import challenges, factors
from tamatar_auth.storage.repositories import Repository, any_of, limit_literal
from tamatar_auth.storage.repositories.session_days import first_partition_end
from tamatar_auth.storage.repositories.session_state import unused_for
from tamatar_auth.storage.tables import (
    IN_INDEX_OF_DELETIONS,
    password_attempts,
    sessions,
    user_tokens,
    users,
)


class ExpiredRows(Enum):
    """A kind of rows with a retention."""

    ENDED_SESSIONS = "ended_sessions"
    EXPIRED_SESSIONS = "expired_sessions"
    IDLE_SESSIONS = "idle_sessions"
    EXPIRED_SECRETS = "expired_secrets"
    EXPIRED_CHALLENGES = "expired_challenges"
    UNCONFIRMED_FACTORS = "unconfirmed_factors"
    FORGOTTEN_ATTEMPTS = "forgotten_attempts"
    DELETED_USERS = "deleted_users"

    @property
    def retained_since(self) -> Column[Any]:
        """The column with the time at which the retention begins."""
        return _RETAINED_SINCE[self]

    @property
    def table(self) -> Table:
        """The table that the rows are in."""
        return self.retained_since.table


_RETAINED_SINCE: Mapping[ExpiredRows, Column[Any]] = {
    ExpiredRows.ENDED_SESSIONS: sessions.c.revoked_at,
    ExpiredRows.EXPIRED_SESSIONS: sessions.c.expires_at,
    ExpiredRows.IDLE_SESSIONS: sessions.c.last_activity_at,
    ExpiredRows.EXPIRED_SECRETS: user_tokens.c.expires_at,
    ExpiredRows.EXPIRED_CHALLENGES: challenges.c.expires_at,
    ExpiredRows.UNCONFIRMED_FACTORS: factors.c.created_at,
    ExpiredRows.FORGOTTEN_ATTEMPTS: password_attempts.c.last_tried_at,
    ExpiredRows.DELETED_USERS: users.c.deleted_at,
}

_KEPT_IF_SET: Mapping[ExpiredRows, Column[Any]] = {
    ExpiredRows.UNCONFIRMED_FACTORS: factors.c.confirmed_at,
    ExpiredRows.FORGOTTEN_ATTEMPTS: password_attempts.c.user_id,
}

# A lock of the transaction, because a pooler may lend the connection to another client. The
# transaction finds each row by an index: the planner overestimates a look into one partition of
# many, and would rather read all sessions for each batch.
_try_lock = select(
    func.pg_try_advisory_xact_lock(LOCK_NAMESPACE, AdvisoryLock.SWEEP),
    *(
        func.set_config(f"enable_{method}", "off", true())
        for method in ("hashjoin", "mergejoin", "seqscan")
    ),
).execution_options(summary="SELECT")


class ExpiredRowsRepository(Repository):
    """Counts and removes rows past their retention over one connection."""

    async def try_lock(self) -> bool:
        """Lock the sweep until the transaction ends; return False if another process holds it."""
        return bool((await self._connection.execute(_try_lock)).one()[0])

    async def count(self, retention: Mapping[ExpiredRows, timedelta]) -> Mapping[ExpiredRows, int]:
        """Count the rows past their retention, by kind."""
        counts = [
            select(func.count())
            .select_from(kind.table)
            .where(_is_past_retention(kind, period))
            .scalar_subquery()
            for kind, period in retention.items()
        ]
        tables = dict.fromkeys(kind.table.name for kind in retention)
        summary = " ".join(["SELECT", *tables])
        statement = select(*counts).execution_options(summary=summary)
        found = (await self._connection.execute(statement)).one()
        return dict(zip(retention, found, strict=True))

    async def purge(self, kind: ExpiredRows, retention: timedelta, *, limit: int) -> int:
        """Remove up to `limit` rows that are past their retention, and return how many.

        Rows that another transaction has locked are skipped.
        """
        key = tuple_(*kind.table.primary_key.columns)
        batch = _batch(kind, retention, limit).with_for_update(skip_locked=True).cte("batch")
        removed = await self._connection.execute(
            delete(kind.table)
            .where(key.in_(select(*batch.columns)))
            .execution_options(summary=f"DELETE {kind.table.name}")
        )
        return removed.rowcount

    async def lock_deleted_users(self, retention: timedelta, *, limit: int) -> Sequence[UUID]:
        """Lock up to `limit` users whose deletion is past its retention, and return their ids.

        Users that another transaction has locked are skipped.
        """
        batch = _batch(ExpiredRows.DELETED_USERS, retention, limit)
        locking = batch.with_for_update(skip_locked=True, of=users)
        found = await self._connection.execute(locking.execution_options(summary="SELECT users"))
        return [row.id for row in found]

    async def purge_sessions_of(self, user_ids: Sequence[UUID], *, limit: int) -> bool:
        """Remove sessions of users. Return False if some are left."""
        key = tuple_(*sessions.primary_key.columns)
        batch = (
            select(*sessions.primary_key.columns)
            .where(any_of(sessions.c.user_id, "user_ids"))
            .limit(limit_literal(limit))
        )
        removed = await self._connection.execute(
            delete(sessions).where(key.in_(batch)).execution_options(summary="DELETE sessions"),
            {"user_ids": list(user_ids)},
        )
        return removed.rowcount < limit

    async def remove_session_ends(self, *, limit: int) -> int:
        """Remove up to `limit` reported ends of sessions, and return how many.

        Return 0 if another process is removing them.
        """
        statement = select(func.remove_session_ends(limit_literal(limit)))
        found = await self._connection.execute(statement.execution_options(summary="SELECT"))
        return int(found.scalar_one())


def _batch(kind: ExpiredRows, retention: timedelta, limit: int) -> Select[Any]:
    """Build the statement for some rows past their retention, the first ones of an index.

    Idle sessions come in no order: their index, a BRIN, has none.
    """
    found = select(*kind.table.primary_key.columns).where(_is_past_retention(kind, retention))
    if kind is not ExpiredRows.IDLE_SESSIONS:
        found = found.order_by(kind.retained_since)
    return found.limit(limit_literal(limit))


def _is_past_retention(kind: ExpiredRows, retention: timedelta) -> ColumnElement[bool]:
    """Return the condition for rows past their retention.

    Expired sessions are dropped with their partition, except those of the first one. There a
    revoked session is kept as an ended one, even after it would have expired. The attempts of a
    user are kept until its password is right or reset.
    """
    old = kind.retained_since <= func.now() - retention
    expires_at = sessions.c.expires_at
    match kind:
        case ExpiredRows.ENDED_SESSIONS:
            return old & (expires_at > func.now())
        case ExpiredRows.EXPIRED_SESSIONS:
            is_unretained = sessions.c.is_valid | (sessions.c.revoked_at <= func.now() - retention)
            return (expires_at <= func.now()) & (expires_at < first_partition_end) & is_unretained
        case ExpiredRows.IDLE_SESSIONS:
            return sessions.c.is_valid & unused_for(retention) & (expires_at > func.now())
        case ExpiredRows.UNCONFIRMED_FACTORS | ExpiredRows.FORGOTTEN_ATTEMPTS:
            return _KEPT_IF_SET[kind].is_(None) & old
        case ExpiredRows.DELETED_USERS:
            return and_(IN_INDEX_OF_DELETIONS, old)
        case _:
            return old
