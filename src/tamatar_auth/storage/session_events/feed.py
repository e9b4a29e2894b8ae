"""The feed of ended sessions: from notifications of PostgreSQL to the streams of WatchSessions.

Triggers of revision 0005 send a notification (NOTIFY) in the transaction that ends a session.
One connection of this process receives all of them. If it may have missed one, every stream is
interrupted, and the next stream opens a new connection.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextvars import Context
from time import monotonic
from typing import Any
from uuid import UUID

import psycopg
import structlog
from opentelemetry.metrics import Meter, Observation

from tamatar_auth.config.database import DatabaseSettings
from tamatar_auth.errors import ServiceStopping
from tamatar_auth.errors.storage import StorageUnavailable
from tamatar_auth.observability import semconv
from tamatar_auth.observability.instruments import observe_counter
from tamatar_auth.storage import sqlstates
from tamatar_auth.storage.driver import limits
from tamatar_auth.storage.driver.connection import Observe
from tamatar_auth.storage.driver.orphaned_statements import OrphanedStatements
from tamatar_auth.storage.session_events.listener import (
    NotListeningError,
    listen,
    listener_connector,
    verify_listener,
)
from tamatar_auth.storage.session_events.subscriber import SessionEnd, StreamEndCause, Subscriber

CHECK_INTERVAL = 1.0
"""Seconds between two checks of the connection. Only these detect a silent server."""

IDLE_TIMEOUT = 30.0
"""Seconds without a stream after which the connection is closed."""

log = structlog.get_logger(__name__)


class SessionEndFeed:
    """Receives the ends of sessions while there are subscribers."""

    def __init__(
        self,
        settings: DatabaseSettings,
        orphaned: OrphanedStatements,
        meter: Meter | None = None,
        observe: Observe | None = None,
    ) -> None:
        self._connect = listener_connector(settings, orphaned, observe)
        self._listener: _Listener | None = None
        self._is_closed = False
        self._last_reason: str | None = "no subscribers"
        self.received = 0
        """Ends received from PostgreSQL."""
        self.ended = dict.fromkeys(StreamEndCause, 0)
        """Subscriptions that have ended, by cause."""
        if meter is not None:
            _register_metrics(self, meter)

    @contextlib.asynccontextmanager
    async def subscribe(self) -> AsyncIterator[Subscriber]:
        """Receive each end from now on. Raise `StorageUnavailable` if that is not possible."""
        listener, subscriber = await self._ensure_listening(), Subscriber()
        listener.subscribers.add(subscriber)
        try:
            yield subscriber
        finally:
            listener.subscribers.discard(subscriber)
            listener.needed_at = monotonic()
            self.ended[subscriber.interrupted or StreamEndCause.LEFT] += 1

    def disconnect(self) -> None:
        """Drop the connection: it leads to the wrong server."""
        if self._listener is not None:
            self._listener.task.cancel()
            self._drop(self._listener)

    async def close(self) -> None:
        """Interrupt all subscribers, and close the connection."""
        self._is_closed = True
        if self._listener is not None:
            task = self._listener.task
            self.disconnect()
            await asyncio.wait([task])

    async def _ensure_listening(self) -> "_Listener":
        """Return the live listener, or start one."""
        if self._is_closed:
            raise ServiceStopping
        listener = self._listener = self._listener or _Listener(self._listen)
        listener.needed_at = monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limits.POOL_WAIT):
                await listener.decided.wait()
        # There is no `await` between this check and the subscription.
        if not listener.is_live:
            raise StorageUnavailable
        return listener

    async def _listen(self, listener: "_Listener") -> None:
        """Receive notifications until the connection is lost or not needed any more."""
        try:
            async with listen(self._connect) as connection:
                self._log_state(None)
                listener.is_live = True
                listener.decided.set()
                while listener.subscribers or monotonic() - listener.needed_at < IDLE_TIMEOUT:
                    async for notification in connection.notifies(timeout=CHECK_INTERVAL):
                        self._publish(listener, notification.payload)
                    await verify_listener(connection)
                self._drop(listener)
                self._last_reason = "no subscribers"
        except NotListeningError as error:
            self._log_state(str(error))
        except (psycopg.Error, OSError, TimeoutError) as error:
            self._log_state(
                f"the connection is lost ({sqlstates.sqlstate(error) or type(error).__name__})"
            )
        finally:
            self._drop(listener)

    def _publish(self, listener: "_Listener", payload: str) -> None:
        self.received += 1
        end = _parse(payload)
        for subscriber in listener.subscribers:
            if end is not None:
                subscriber.notify(end)
            else:  # sessions have ended, but it is unknown which
                subscriber.interrupt(StreamEndCause.LOST)

    def _log_state(self, why: str | None) -> None:
        """Log whether ends are received, or why not, if that has changed."""
        if why == self._last_reason:
            return
        self._last_reason = why
        if why is None:
            log.info("session ends are heard")
        else:
            log.warning("session ends are not heard", why=why)

    def _drop(self, listener: "_Listener") -> None:
        if self._listener is listener:
            self._listener = None
        listener.interrupt()


class _Listener:
    """A connection that receives notifications, and its subscribers."""

    def __init__(self, run: Callable[["_Listener"], Coroutine[Any, Any, None]]) -> None:
        self.subscribers: set[Subscriber] = set()
        self.needed_at = monotonic()
        self.decided = asyncio.Event()
        """Set once the connection is live or has failed."""
        self.is_live = False
        # The context of the call is not inherited, because the call ends first.
        self.task = asyncio.get_running_loop().create_task(run(self), context=Context())

    def interrupt(self) -> None:
        """Accept no more subscribers, and interrupt the present ones."""
        self.is_live = False
        self.decided.set()
        for subscriber in self.subscribers:
            subscriber.interrupt(StreamEndCause.LOST)


def _parse(payload: str) -> SessionEnd | None:
    """Return the end that a trigger sent, or None if the payload is malformed."""
    user_id, _, session_id = payload.partition(" ")
    try:
        return SessionEnd(UUID(user_id), UUID(session_id) if session_id else None)
    except ValueError:
        return None


def _register_metrics(feed: SessionEndFeed, meter: Meter) -> None:
    def ended() -> Iterable[Observation]:
        for cause, count in feed.ended.items():
            yield Observation(count, {semconv.WATCH_CAUSE: cause.value})

    observe_counter(
        meter,
        semconv.ENDS_HEARD,
        lambda: feed.received,
        unit="{end}",
        description="The ends of sessions that PostgreSQL has notified this process of.",
    )
    observe_counter(
        meter,
        semconv.WATCHES_ENDED,
        ended,
        unit="{stream}",
        description="The streams of WatchSessions that have ended.",
    )
