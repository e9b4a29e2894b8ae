"""Connections that are being opened, each for whoever comes first."""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from time import monotonic
from typing import Any, TypeAlias

from tamatar_auth.errors import ServiceStopping
from tamatar_auth.storage.driver.connection import Connection

UNCLAIMED_LIFETIME = 5.0
"""Seconds from its beginning in which a connection is given that nobody waited for."""

Connector: TypeAlias = Callable[[], Coroutine[Any, Any, Connection]]


class ConnectionOpener:
    """Opens connections. What a call began that could not wait, the next one goes on with.

    Of several hosts the first may be silent, and connecting takes longer than a call may wait:
    if every call began anew none would ever get to the second.
    """

    def __init__(self, connect: Connector) -> None:
        self._connect = connect
        self._unclaimed: list[asyncio.Task[Connection]] = []
        self._is_closed = False

    async def open(self) -> Connection:
        """Return a connection that was just opened, or raise what psycopg raises.

        Raise `ServiceStopping` after the end.
        """
        if self._is_closed:
            raise ServiceStopping
        attempt = self._unclaimed_attempt() or asyncio.create_task(
            self._connect(), context=Context()
        )
        try:
            return await asyncio.shield(attempt)
        except asyncio.CancelledError:
            self._release(attempt)
            raise

    def _unclaimed_attempt(self) -> "asyncio.Task[Connection] | None":
        """Give an opening that nobody waits for, but none that has been ready for long."""
        while self._unclaimed:
            attempt = self._unclaimed.pop(0)
            if not attempt.done():
                return attempt
            if _has_failed(attempt):
                continue
            if attempt.result().connect_started_at > monotonic() - UNCLAIMED_LIFETIME:
                return attempt
            attempt.result().pgconn.finish()
        return None

    def close(self) -> None:
        """Close the connections that nobody has come for, and those that nobody waits for."""
        self._is_closed = True
        while self._unclaimed:
            _cancel(self._unclaimed.pop())

    def _release(self, attempt: "asyncio.Task[Connection]") -> None:
        """Leave an opening to whoever comes, but not for long."""
        if self._is_closed:
            _cancel(attempt)
            return
        self._unclaimed.append(attempt)
        attempt.add_done_callback(self._on_opened)

    def _on_opened(self, attempt: "asyncio.Task[Connection]") -> None:
        if attempt not in self._unclaimed:  # somebody came for it
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
    # One that is about to succeed may do so although it was told to end.
    attempt.cancel()
    attempt.add_done_callback(_close)


def _close(attempt: "asyncio.Task[Connection]") -> None:
    if not _has_failed(attempt):
        attempt.result().pgconn.finish()


def _has_failed(attempt: "asyncio.Task[Connection]") -> bool:
    return attempt.cancelled() or attempt.exception() is not None
