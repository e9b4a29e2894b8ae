"""Connections that are being opened, each for whoever comes first."""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from time import monotonic
from typing import Any, TypeAlias

from tamatar_auth.errors import ServiceStopping
from tamatar_auth.storage.driver.connection import Connection

FRESH = 5.0
"""Seconds from its beginning in which a connection is given that nobody waited for."""

Connect: TypeAlias = Callable[[], Coroutine[Any, Any, Connection]]


class Openings:
    """Opens connections. What a call began that could not wait, the next one goes on with.

    Of several hosts the first may be silent, and connecting takes longer than a call may wait:
    if every call began anew none would ever get to the second.
    """

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._unclaimed: list[asyncio.Task[Connection]] = []
        self._is_closed = False

    async def one(self) -> Connection:
        """Return a connection that was just opened, or raise what psycopg raises.

        Raise `ServiceStopping` after the end.
        """
        if self._is_closed:
            raise ServiceStopping
        opening = self._begun() or asyncio.create_task(self._connect(), context=Context())
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            self._leave(opening)
            raise

    def _begun(self) -> "asyncio.Task[Connection] | None":
        """Give an opening that nobody waits for, but none that has been ready for long."""
        while self._unclaimed:
            opening = self._unclaimed.pop(0)
            if not opening.done():
                return opening
            if _has_failed(opening):
                continue
            if opening.result().began_at > monotonic() - FRESH:
                return opening
            opening.result().pgconn.finish()
        return None

    def close(self) -> None:
        """Close the connections that nobody has come for, and those that nobody waits for."""
        self._is_closed = True
        while self._unclaimed:
            _end(self._unclaimed.pop())

    def _leave(self, opening: "asyncio.Task[Connection]") -> None:
        """Leave an opening to whoever comes, but not for long."""
        if self._is_closed:
            _end(opening)
            return
        self._unclaimed.append(opening)
        opening.add_done_callback(self._opened)

    def _opened(self, opening: "asyncio.Task[Connection]") -> None:
        if opening not in self._unclaimed:  # somebody came for it
            return
        if _has_failed(opening):
            self._unclaimed.remove(opening)
        else:
            asyncio.get_running_loop().call_later(FRESH, self._forget, opening)

    def _forget(self, opening: "asyncio.Task[Connection]") -> None:
        if opening in self._unclaimed:
            self._unclaimed.remove(opening)
            _close(opening)


def _end(opening: "asyncio.Task[Connection]") -> None:
    # One that is about to succeed may do so although it was told to end.
    opening.cancel()
    opening.add_done_callback(_close)


def _close(opening: "asyncio.Task[Connection]") -> None:
    if not _has_failed(opening):
        opening.result().pgconn.finish()


def _has_failed(opening: "asyncio.Task[Connection]") -> bool:
    return opening.cancelled() or opening.exception() is not None
