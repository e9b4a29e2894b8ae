"""Those who are told of ended sessions, each at its own pace."""

import asyncio
import contextlib
from collections.abc import Sequence
from enum import Enum
from itertools import islice
from typing import NamedTuple
from uuid import UUID

from tamatar_auth.errors import StreamInterrupted

MAX_PENDING_ENDS = 10_000
"""How many ends may wait to be taken: more than the sessions that a user can have."""

MAX_ENDS_PER_READ = 1000
"""How many ends are taken at a time."""


class SessionEnd(NamedTuple):
    """A session that ended; without one, each of the user's."""

    user_id: UUID
    session_id: UUID | None


class StreamEndCause(Enum):
    """Why somebody stopped watching."""

    LOST = "lost"
    SLOW = "slow"
    LEFT = "left"


class Subscriber:
    """Somebody who watches, and what was not taken yet."""

    def __init__(self) -> None:
        self.interrupted: StreamEndCause | None = None
        """Why an end may be missing; nothing is told any more."""
        self._pending: dict[SessionEnd, None] = {}
        self._changed = asyncio.Event()

    def notify(self, end: SessionEnd) -> None:
        """Let an end be taken. Who does not come for them loses all."""
        if self.interrupted is not None:
            return
        if len(self._pending) < MAX_PENDING_ENDS:
            self._pending[end] = None
            self._changed.set()
        else:
            self.interrupt(StreamEndCause.SLOW)

    def interrupt(self, cause: StreamEndCause) -> None:
        """Let the watcher know that it may miss an end."""
        self.interrupted = self.interrupted or cause
        self._pending.clear()
        self._changed.set()

    async def next_batch(self, wait_seconds: float) -> Sequence[SessionEnd]:
        """Return what ended since the last time: nothing, when that lasts for so many seconds.

        Raise `StreamInterrupted` where an end may be missing.
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
