"""Connections that are being opened, each for whoever comes first."""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from time import monotonic
from typing import Any, TypeAlias

from tamatar_auth.storage.abandoned import Connection

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

    async def one(self) -> Connection:
        """Return a connection that was just opened, or raise what psycopg raises."""
        opening = self._begun() or asyncio.create_task(self._connect(), context=Context())
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            if not opening.cancelled():
                self._unclaimed.append(opening)
                opening.add_done_callback(self._forget_if_failed)
            raise

    def _begun(self) -> "asyncio.Task[Connection] | None":
        """Give an opening that nobody waits for, but none that has been ready for long."""
        while self._unclaimed:
            opening = self._unclaimed.pop(0)
            if not opening.done():
                return opening
            if opening.cancelled() or opening.exception() is not None:
                continue
            if opening.result().began_at > monotonic() - FRESH:
                return opening
            opening.result().pgconn.finish()
        return None

    def close(self) -> None:
        """Close the connections that nobody has come for."""
        while self._unclaimed:
            opening = self._unclaimed.pop()
            opening.cancel()
            if opening.done() and not opening.cancelled() and not opening.exception():
                opening.result().pgconn.finish()

    def _forget_if_failed(self, opening: "asyncio.Task[Connection]") -> None:
        has_failed = opening.cancelled() or opening.exception() is not None
        if has_failed and opening in self._unclaimed:
            self._unclaimed.remove(opening)
