"""The ends of sessions, heard from PostgreSQL and told to all who watch.

Triggers of revision 0005 tell of them (NOTIFY) in the transactions that decide them. One
connection of this process hears of all. Whatever may have kept it from hearing one interrupts
all who watch: they begin anew, and so does the connection.
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
from tamatar_auth.storage.driver.orphaned_statements import OrphanedStatements
from tamatar_auth.storage.session_events.listener import (
    NotListeningError,
    listen,
    listener_connector,
    verify_listener,
)
from tamatar_auth.storage.session_events.subscriber import SessionEnd, StreamEndCause, Subscriber

CHECK_INTERVAL = 1.0
"""Seconds between two looks at the connection; its silence is noticed by these alone."""

IDLE_TIMEOUT = 30.0
"""Seconds after which the connection is closed when nobody watches."""

log = structlog.get_logger(__name__)


class SessionEndFeed:
    """Hears of the ends of sessions while somebody watches."""

    def __init__(
        self, settings: DatabaseSettings, orphaned: OrphanedStatements, meter: Meter | None = None
    ) -> None:
        self._connect = listener_connector(settings, orphaned)
        self._connect_timeout = settings.pool_wait.total_seconds()
        self._listener: _Listener | None = None
        self._is_closed = False
        self._last_reason: str | None = "nobody watches"
        self.received = 0
        """How many ends PostgreSQL told of."""
        self.ended = dict.fromkeys(StreamEndCause, 0)
        """How many do not watch any more."""
        if meter is not None:
            _register_metrics(self, meter)

    @contextlib.asynccontextmanager
    async def subscribe(self) -> AsyncIterator[Subscriber]:
        """Tell of each end from now on, or raise `StorageUnavailable`."""
        listener, subscriber = await self._ensure_listening(), Subscriber()
        listener.subscribers.add(subscriber)
        try:
            yield subscriber
        finally:
            listener.subscribers.discard(subscriber)
            listener.needed_at = monotonic()
            self.ended[subscriber.interrupted or StreamEndCause.LEFT] += 1

    def disconnect(self) -> None:
        """Hear no more of the server that is heard: it is the wrong one."""
        if self._listener is not None:
            self._listener.task.cancel()
            self._drop(self._listener)

    async def close(self) -> None:
        """Interrupt all who watch, and close the connection."""
        self._is_closed = True
        if self._listener is not None:
            task = self._listener.task
            self.disconnect()
            await asyncio.wait([task])

    async def _ensure_listening(self) -> "_Listener":
        """Return the connection that hears now, a new one if there is none."""
        if self._is_closed:
            raise ServiceStopping
        listener = self._listener = self._listener or _Listener(self._listen)
        listener.needed_at = monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._connect_timeout):
                await listener.decided.wait()
        # Nothing is waited for after this, until the watcher is told of what comes.
        if not listener.is_live:
            raise StorageUnavailable
        return listener

    async def _listen(self, listener: "_Listener") -> None:
        """Hear until the connection is lost, or nobody needs it."""
        try:
            async with listen(self._connect) as connection:
                self._log_state(None)
                listener.begin()
                while listener.is_needed:
                    async for notification in connection.notifies(timeout=CHECK_INTERVAL):
                        self._publish(listener, notification.payload)
                    await verify_listener(connection)
                self._drop(listener)
                self._last_reason = "nobody watches"
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
            else:  # sessions ended, but which?
                subscriber.interrupt(StreamEndCause.LOST)

    def _log_state(self, why: str | None) -> None:
        """Log what changed: that ends are heard, or why they are not."""
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
        listener.end()


class _Listener:
    """One connection that hears, from before it is opened to its end."""

    def __init__(self, run: Callable[["_Listener"], Coroutine[Any, Any, None]]) -> None:
        self.subscribers: set[Subscriber] = set()
        self.needed_at = monotonic()
        self.decided = asyncio.Event()
        """Set when it is known whether it hears."""
        self.is_live = False
        # In a context of its own: the call that it is opened for ends before it.
        self.task = asyncio.get_running_loop().create_task(run(self), context=Context())

    @property
    def is_needed(self) -> bool:
        """Whether somebody watches, or did so lately."""
        return bool(self.subscribers) or monotonic() - self.needed_at < IDLE_TIMEOUT

    def begin(self) -> None:
        """Hear from now on."""
        self.is_live = True
        self.decided.set()

    def end(self) -> None:
        """Hear no more, and say so."""
        self.is_live = False
        self.decided.set()
        for subscriber in self.subscribers:
            subscriber.interrupt(StreamEndCause.LOST)


def _parse(payload: str) -> SessionEnd | None:
    """Read what a trigger told; None where that is something else."""
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
