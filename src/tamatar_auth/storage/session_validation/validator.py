"""Validation of sessions: asked most of all, so calls at the same time share a statement."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from uuid import UUID

from tamatar_auth.errors import Failure
from tamatar_auth.errors.sessions import SessionUnknown
from tamatar_auth.errors.storage import StorageUnavailable
from tamatar_auth.storage.repositories.sessions import refuse
from tamatar_auth.storage.session_validation.batch_loader import (
    LONGEST_READ,
    MOST_STATEMENTS,
    GroupRead,
    Take,
)
from tamatar_auth.storage.session_validation.connections import ReservedConnections
from tamatar_auth.storage.session_validation.last_activity import Activity
from tamatar_auth.storage.session_validation.statement import (
    DIGEST,
    IS_STALE,
    REFUSAL,
    Digests,
    ValidatedRow,
    of_digests,
)

MOST_BATCHES = 4
"""How many batches are looked up at once; others wait for their turn."""

LONGEST_WAIT = 1.0
"""Seconds that a batch waits for its turn."""

MOST_CONNECTIONS = MOST_STATEMENTS + MOST_BATCHES


class SessionValidation:
    """Tells the sessions of tokens and their users, when both are good.

    What is said of a token was read from the database after the call for it came.
    """

    def __init__(
        self,
        reserved: ReservedConnections,
        activity: Activity,
        idle_limit: timedelta | None,
    ) -> None:
        self._reserved = reserved
        self._batches = asyncio.Semaphore(MOST_BATCHES)
        self._statement = reserved.statement(of_digests, binary=["digests"])
        self._activity = activity
        self._idle_limit = idle_limit
        self._find: GroupRead[bytes, ValidatedRow] = GroupRead(self._found)

    async def one(self, digest: bytes) -> ValidatedRow:
        """Return the session of a token with its user.

        Raise `SessionUnknown`, `SessionRevoked`, `SessionExpired`, `SessionIdle` or
        `UserInactive`.
        """
        return self._good(await self._find(digest))

    async def each(self, digests: Sequence[bytes]) -> Sequence[ValidatedRow | Failure]:
        """Return for each token what `one` returns or raises."""
        async with self._turn():
            found = await self._found(lambda: digests)
        return [self._judged(row) for row in map(found.get, digests)]

    async def prepare(self) -> None:
        """Get ready for the first call."""
        await self._reserved.fill()

    async def close(self) -> None:
        """Return when nobody waits any more; close the connections also when told to end sooner."""
        try:
            await self._find.close()
        finally:
            await self._reserved.close()

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Let few batches in at once, and none stay for ever."""
        try:
            async with asyncio.timeout(LONGEST_WAIT):
                await self._batches.acquire()
            try:
                async with asyncio.timeout(LONGEST_READ.total_seconds()):
                    yield
            finally:
                self._batches.release()
        except TimeoutError:
            raise StorageUnavailable from None

    async def _found(self, take: Take[bytes]) -> Mapping[bytes, ValidatedRow]:
        async with self._reserved.lend() as connection:
            digests = take()
            if not digests:  # whoever wanted to know has gone
                return {}
            rows = await self._statement.rows(
                connection, digests=Digests(digests), idle_limit=self._idle_limit
            )
            return {row[DIGEST]: row[:DIGEST] for row in rows}

    def _judged(self, row: ValidatedRow | None) -> ValidatedRow | Failure:
        if row is not None and row[REFUSAL] is None and not row[IS_STALE]:
            return row  # as most are
        try:
            return self._good(row)
        except Failure as failure:
            return failure

    def _good(self, row: ValidatedRow | None) -> ValidatedRow:
        if row is None:
            raise SessionUnknown
        refuse(row[REFUSAL])
        if row[IS_STALE]:
            self._activity.note(UUID(row[0]))
        return row
