"""Subscribers to ended sessions, each with a queue of its own."""

import asyncio
import contextlib
from collections.abc import Sequence
from enum import Enum
from itertools import islice
from typing import NamedTuple
from uuid import UUID

from tamatar_auth.errors import StreamInterrupted

MAX_PENDING_ENDS = 10_000
"""Ends that may wait in a queue: more than the sessions that a user can have."""

MAX_ENDS_PER_READ = 1000
"""Ends returned at a time."""


class SessionEnd(NamedTuple):
    """A session that ended. Without a session id, all sessions of the user ended."""

    user_id: UUID
    session_id: UUID | None


class StreamEndCause(Enum):
    """Why a stream ended."""

    LOST = "lost"
    SLOW = "slow"
    LEFT = "left"


class Subscriber:
    """A stream of WatchSessions with its queue."""

    def __init__(self) -> None:
        self.interrupted: StreamEndCause | None = None
        """Why an end may be missing. An interrupted subscriber receives no more ends."""
        self._pending: dict[SessionEnd, None] = {}
        self._changed = asyncio.Event()

    def notify(self, end: SessionEnd) -> None:
        """Queue an end. If the queue is full, interrupt the subscriber."""
        if self.interrupted is not None:
            return
        if len(self._pending) < MAX_PENDING_ENDS:
            self._pending[end] = None
            self._changed.set()
        else:
            self.interrupt(StreamEndCause.SLOW)

    def interrupt(self, cause: StreamEndCause) -> None:
        """Drop the queue: an end may be missing."""
        self.interrupted = self.interrupted or cause
        self._pending.clear()
        self._changed.set()

    async def next_batch(self, wait_seconds: float) -> Sequence[SessionEnd]:
        """Return the queued ends. Wait for the first one, `wait_seconds` at most.

        Raise `StreamInterrupted` if an end may be missing.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_seconds):
                await self._changed.wait()
        if self.interrupted is not None:
            raise StreamInterrupted
        batch = [*islice(self._pending, MAX_ENDS_PER_READ)]
        for end in batch:
            del self._pending[end]
        if not self._pending:
            self._changed.clear()
        return batch
