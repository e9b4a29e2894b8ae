"""Sharing the opening of connections between calls."""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from time import monotonic
from typing import Any, TypeAlias

from tamatar_auth.errors import ServiceStopping
from tamatar_auth.storage.driver.connection import Connection

UNCLAIMED_LIFETIME = 5.0
"""Seconds from the start of connecting after which an unclaimed connection is closed."""

is_connecting: ContextVar[bool] = ContextVar("is_connecting", default=False)
"""Whether the current task has begun to open a connection. Its caller resets the value."""

Connector: TypeAlias = Callable[[], Coroutine[Any, Any, Connection]]


class ConnectionOpener:
    """Opens connections. An attempt whose call gave up is continued by the next call.

    If the first of several hosts is silent, connecting takes longer than a call may wait. No
    call would ever reach the second host if each call started again.
    """

    def __init__(self, connect: Connector) -> None:
        self._connect = connect
        self._unclaimed: list[asyncio.Task[Connection]] = []
        self._is_closed = False

    async def open(self) -> Connection:
        """Return a new connection, or raise what psycopg raises.

        Raise `ServiceStopping` after `close`.
        """
        if self._is_closed:
            raise ServiceStopping
        attempt = self._unclaimed_attempt() or asyncio.create_task(
            self._connect(), context=Context()
        )
        is_connecting.set(True)
        try:
            return await asyncio.shield(attempt)
        except asyncio.CancelledError:
            self._release(attempt)
            raise

    def _unclaimed_attempt(self) -> "asyncio.Task[Connection] | None":
        """Return an attempt that no call waits for, unless its connection is too old."""
        while self._unclaimed:
            attempt = self._unclaimed.pop(0)
            if not attempt.done():
                return attempt
            oldest = monotonic() - UNCLAIMED_LIFETIME
            if not _has_failed(attempt) and attempt.result().connect_started_at > oldest:
                return attempt
            _close(attempt)
        return None

    def close(self) -> None:
        """Close unclaimed connections, and cancel the attempts that no call waits for."""
        self._is_closed = True
        while self._unclaimed:
            _cancel(self._unclaimed.pop())

    def _release(self, attempt: "asyncio.Task[Connection]") -> None:
        """Offer an attempt to the next call, for a short time."""
        if self._is_closed:
            _cancel(attempt)
            return
        self._unclaimed.append(attempt)
        attempt.add_done_callback(self._on_opened)

    def _on_opened(self, attempt: "asyncio.Task[Connection]") -> None:
        if attempt not in self._unclaimed:  # a call has claimed it
            return
        if _has_failed(attempt):
            self._unclaimed.remove(attempt)
        else:
            asyncio.get_running_loop().call_later(UNCLAIMED_LIFETIME, self._expire, attempt)

    def _expire(self, attempt: "asyncio.Task[Connection]") -> None:
        if attempt in self._unclaimed:
            self._unclaimed.remove(attempt)
            _close(attempt)


def _cancel(attempt: "asyncio.Task[Connection]") -> None:
    # An attempt that is about to succeed may do so despite the cancellation.
    attempt.cancel()
    attempt.add_done_callback(_close)


def _close(attempt: "asyncio.Task[Connection]") -> None:
    if not _has_failed(attempt):
        attempt.result().pgconn.finish()


def _has_failed(attempt: "asyncio.Task[Connection]") -> bool:
    return attempt.cancelled() or attempt.exception() is not None
