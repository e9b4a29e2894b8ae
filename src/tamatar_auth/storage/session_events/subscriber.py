"""Subscribers to ended sessions, each with a queue of its own."""

import asyncio
import contextlib
from collections import deque
from enum import Enum
from typing import Any

from tamatar_auth.errors import StreamInterrupted

MAX_PENDING_ENDS = 10_000
"""Ends that may wait in a queue: more than the sessions that a user can have."""

MAX_ENDS_PER_MESSAGE = 1000
"""Ends of one message."""


class StreamEndCause(Enum):
    """Why a stream ended."""

    LOST = "lost"
    SLOW = "slow"
    LEFT = "left"


class Subscriber:
    """A stream of WatchSessions with its queue."""

    def __init__(self) -> None:
        self.decided = asyncio.Event()
        """Set once the feed has accepted or interrupted the subscriber."""
        self.interrupted: StreamEndCause | None = None
        """Why an end may be missing. An interrupted subscriber receives no more ends."""
        self._pending: deque[tuple[Any, int]] = deque()
        self._pending_ends = 0
        self._changed = asyncio.Event()

    def notify(self, message: Any, ends: int) -> None:
        """Queue a message with so many ends. If the queue is full, interrupt the subscriber."""
        if self.interrupted is not None:
            return
        self._pending_ends += ends
        if self._pending_ends <= MAX_PENDING_ENDS:
            self._pending.append((message, ends))
            self._changed.set()
        else:
            self.interrupt(StreamEndCause.SLOW)

    def interrupt(self, cause: StreamEndCause) -> None:
        """Drop the queue: an end may be missing."""
        self.interrupted = self.interrupted or cause
        self._pending.clear()
        self._changed.set()
        self.decided.set()

    async def next_message(self, wait_seconds: float) -> Any:
        """Return the first message of the queue, or None if none came for `wait_seconds`.

        Raise `StreamInterrupted` if an end may be missing.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_seconds):
                await self._changed.wait()
        if self.interrupted is not None:
            raise StreamInterrupted
        if not self._pending:
            return None
        message, ends = self._pending.popleft()
        self._pending_ends -= ends
        if not self._pending:
            self._changed.clear()
        return message
