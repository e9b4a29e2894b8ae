"""Validation of sessions, the most frequent call. Concurrent calls share a statement."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError

from tamatar_auth.errors import Failure, ServerBusy
from tamatar_auth.errors.sessions import SessionUnknown
from tamatar_auth.errors.storage import PrimaryNotConfirmed, StorageUnavailable
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.repositories.session_state import raise_refusal
from tamatar_auth.storage.repositories.token_keys import TokenKey
from tamatar_auth.storage.retry import retry_rolled_back
from tamatar_auth.storage.session_validation.batch_loader import (
    MAX_STATEMENTS,
    READ_TIMEOUT,
    BatchLoader,
    ReadRows,
    TakeKeys,
)
from tamatar_auth.storage.session_validation.connections import DedicatedPool
from tamatar_auth.storage.session_validation.standby_reader import StandbyReader
from tamatar_auth.storage.session_validation.statement import (
    DIGEST,
    EXPIRES_AT,
    IS_CONFIRMED,
    IS_STALE,
    REFUSAL,
    ValidatedRow,
    by_key,
    moment,
    of_days,
    of_one_day,
    sessions_of_days,
    sessions_of_one_day,
    with_proof,
)

MAX_BATCHES = 4
"""Calls of BatchValidateSessions that are looked up at once. Others wait."""

SLOT_TIMEOUT = 1.0
"""Seconds that such a call waits before it fails."""

MAX_CONNECTIONS = MAX_STATEMENTS + MAX_BATCHES

WRITE_INTERVAL = 2.0
"""Seconds between two writes."""

WRITE_TIMEOUT = 10.0
"""Seconds after which a write is cancelled."""

MAX_PENDING = 10_000
"""Sessions remembered between two writes. Others are recorded by a later validation."""

log = structlog.get_logger(__name__)


class LastActivityWriter:
    """Collects the sessions that were used. Losing some only costs accuracy."""

    def __init__(self) -> None:
        self._pending: dict[UUID, datetime] = {}

    def record(self, session_id: UUID, expires_at: datetime) -> None:
        """Record that a session was used."""
        if len(self._pending) < MAX_PENDING:
            self._pending[session_id] = expires_at

    async def flush(self, database: Database) -> None:
        """Write the recorded sessions. They are lost if the database is not available."""
        used, self._pending = self._pending, {}
        if not used:
            return

        async def write() -> None:
            async with database.transaction() as tx:
                await tx.sessions.touch(used)

        try:
            await retry_rolled_back(write, within=WRITE_TIMEOUT)
        except (SQLAlchemyError, OSError, Failure) as error:
            log.warning("activity was not written", error=type(error).__name__)

    async def run_forever(self, database: Database) -> None:
        """Write every `WRITE_INTERVAL` seconds."""
        while True:
            await asyncio.sleep(WRITE_INTERVAL)
            await self.flush(database)


class SessionValidator:
    """Returns the sessions of tokens with their users, if both are valid.

    An answer about a token was read from the database after its call arrived.
    """

    def __init__(
        self,
        pool: DedicatedPool,
        activity: LastActivityWriter,
        idle_limit: timedelta | None,
        standbys: StandbyReader | None = None,
    ) -> None:
        self._pool = pool
        self._slots = asyncio.Semaphore(MAX_BATCHES)
        self._of_one_day, self._of_days = (
            pool.statement(with_proof(each, pool.acknowledged_within))
            for each in (sessions_of_one_day, sessions_of_days)
        )
        self._last_activity = activity
        self._idle_limit = idle_limit
        self._standbys = standbys
        self._read: ReadRows[TokenKey, ValidatedRow] = self._read_rows
        if standbys is not None:
            self._read = partial(standbys.read, self._read_rows, idle_limit=idle_limit)
        self._loader: BatchLoader[TokenKey, ValidatedRow] = BatchLoader(self._read)

    async def validate(self, key: TokenKey) -> ValidatedRow:
        """Return the session of a token with its user.

        Raise `SessionUnknown`, `SessionRevoked`, `SessionExpired`, `SessionIdle` or
        `UserInactive`.
        """
        return self._require_valid(await self._loader.load(key))

    async def validate_all(self, keys: Sequence[TokenKey]) -> Sequence[ValidatedRow | Failure]:
        """Return for each token what `validate` returns or raises."""
        async with self._batch_slot():
            found = await self._read(lambda: keys)
        return [self._outcome(row) for row in map(found.get, keys)]

    async def prepare(self) -> None:
        """Open a connection for the first call."""
        await self._pool.warm_up()

    async def close(self) -> None:
        """Answer the pending calls, then close the connections. Close them also if cancelled."""
        try:
            await self._loader.close()
        finally:
            await self._pool.close()
            if self._standbys is not None:
                await self._standbys.close()

    @contextlib.asynccontextmanager
    async def _batch_slot(self) -> AsyncIterator[None]:
        """Limit how many batches run at once, and how long each takes."""
        try:
            async with asyncio.timeout(SLOT_TIMEOUT):
                await self._slots.acquire()
        except TimeoutError:
            raise ServerBusy from None
        try:
            async with asyncio.timeout(READ_TIMEOUT.total_seconds()):
                yield
        except TimeoutError:
            raise StorageUnavailable from None
        finally:
            self._slots.release()

    async def _read_rows(self, take_keys: TakeKeys[TokenKey]) -> Mapping[TokenKey, ValidatedRow]:
        async with self._pool.acquire() as connection:
            keys = set(take_keys())
            if not keys:  # all calls were cancelled
                return {}
            values, statement = of_one_day(keys), self._of_one_day
            if values is None:
                values, statement = of_days(keys), self._of_days
            rows = await statement.rows(connection, **values, idle_limit=self._idle_limit)
            found = {row[DIGEST]: row[:DIGEST] for row in rows}
        if not found.pop(None)[IS_CONFIRMED]:
            self._pool.fence.close()
            raise PrimaryNotConfirmed
        return by_key(keys, found)

    def _outcome(self, row: ValidatedRow | None) -> ValidatedRow | Failure:
        if row is not None and row[REFUSAL] is None and not row[IS_STALE]:
            return row  # the usual case
        try:
            return self._require_valid(row)
        except Failure as failure:
            return failure

    def _require_valid(self, row: ValidatedRow | None) -> ValidatedRow:
        if row is None:
            raise SessionUnknown
        raise_refusal(row[REFUSAL])
        if row[IS_STALE]:
            self._last_activity.record(UUID(row[0]), moment(row[EXPIRES_AT]))
        return row
