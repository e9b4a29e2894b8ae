"""The feed of ended sessions: from the table session_ends to the streams of WatchSessions.

Triggers write a row in the transaction that ends a session. One connection of this process reads
the new rows four times a second. If it may have missed one, or a read takes too long, every
stream is interrupted, and the next stream opens a new connection.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextvars import Context
from time import monotonic
from typing import Any

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
from tamatar_auth.storage.session_events import listener as connections
from tamatar_auth.storage.session_events.listener import (
    EndReader,
    NotListeningError,
    SessionEnd,
    listener_connector,
    open_reader,
)
from tamatar_auth.storage.session_events.subscriber import (
    MAX_ENDS_PER_MESSAGE,
    StreamEndCause,
    Subscriber,
)

READ_INTERVAL = 0.25
"""Seconds between two reads."""

STALENESS_LIMIT = 1.0
"""Seconds from the start of a read to the end of the next one. Later ends would be stale."""

IDLE_TIMEOUT = 30.0
"""Seconds without a stream after which the connection is closed."""

log = structlog.get_logger(__name__)


class SessionEndFeed:
    """Reads the ends of sessions while there are subscribers.

    `encode` builds the message about some ends, once for all subscribers.
    """

    def __init__(
        self,
        settings: DatabaseSettings,
        encode: Callable[[Sequence[SessionEnd]], Any],
        orphaned: OrphanedStatements,
        meter: Meter | None = None,
        observe: Observe | None = None,
    ) -> None:
        self._connect = listener_connector(settings, orphaned, observe)
        self._acknowledged_within = settings.primary_acknowledged_within
        self._encode = encode
        self._listener: _Listener | None = None
        self._is_closed = False
        self._last_reason: str | None = "no subscribers"
        self.received = 0
        """Ends read from PostgreSQL."""
        self.ended = dict.fromkeys(StreamEndCause, 0)
        """Subscriptions that have ended, by cause."""
        if meter is not None:
            _register_metrics(self, meter)

    @contextlib.asynccontextmanager
    async def subscribe(self) -> AsyncIterator[Subscriber]:
        """Receive each end from now on. Raise `StorageUnavailable` if that is not possible."""
        if self._is_closed:
            raise ServiceStopping
        listener = self._listener = self._listener or _Listener(self._listen)
        subscriber = Subscriber()
        try:
            await listener.add(subscriber)
            yield subscriber
        finally:
            if listener.remove(subscriber):
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

    async def _listen(self, listener: "_Listener") -> None:
        """Publish ends until the connection is lost or not needed any more."""
        try:
            async with open_reader(self._connect, self._acknowledged_within) as reader:
                await self._follow(reader, listener)
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

    async def _follow(self, reader: EndReader, listener: "_Listener") -> None:
        """Publish the ends of each read. Raise `TimeoutError` if the next one is late."""
        clock = asyncio.get_running_loop()
        deadline = clock.time() + connections.CHECK_TIMEOUT
        while listener.is_needed():
            async with asyncio.timeout_at(deadline):
                await reader.remove_old_rows()
                await listener.wait_for_turn()
                newcomers, started_at = {*listener.newcomers}, clock.time()
                ends = await reader.read()
            self._publish(ends, listener.subscribers)
            listener.accept(newcomers)
            self._log_state(None)
            deadline = started_at + STALENESS_LIMIT

    def _publish(self, ends: Sequence[SessionEnd], subscribers: Iterable[Subscriber]) -> None:
        self.received += len(ends)
        for first in range(0, len(ends), MAX_ENDS_PER_MESSAGE):
            part = ends[first : first + MAX_ENDS_PER_MESSAGE]
            message = self._encode(part)
            for subscriber in subscribers:
                subscriber.notify(message, len(part))

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
    """A connection that reads ends, and its subscribers."""

    def __init__(self, run: Callable[["_Listener"], Coroutine[Any, Any, None]]) -> None:
        self.subscribers: set[Subscriber] = set()
        self.newcomers: set[Subscriber] = set()
        """Subscribers that wait for the end of a read which begins after they came."""
        self._needed_at = monotonic()
        self._is_wanted = asyncio.Event()
        self._is_closed = False
        # The context of the call is not inherited, because the call ends first.
        self.task = asyncio.get_running_loop().create_task(run(self), context=Context())

    async def add(self, subscriber: Subscriber) -> None:
        """Add a subscriber. Raise `StorageUnavailable` if it would receive nothing."""
        if not self._is_closed:
            self.newcomers.add(subscriber)
            self._is_wanted.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limits.POOL_WAIT):
                    await subscriber.decided.wait()
        # There is no `await` between this check and the subscription.
        if subscriber not in self.subscribers:
            raise StorageUnavailable

    def remove(self, subscriber: Subscriber) -> bool:
        """Remove a subscriber; return whether it was accepted."""
        self._needed_at = monotonic()
        self.newcomers.discard(subscriber)
        was_accepted = subscriber in self.subscribers
        self.subscribers.discard(subscriber)
        return was_accepted

    def is_needed(self) -> bool:
        """Return whether there is a subscriber, or was one a short time ago."""
        is_used = self.subscribers or self.newcomers
        return bool(is_used) or monotonic() - self._needed_at < IDLE_TIMEOUT

    async def wait_for_turn(self) -> None:
        """Wait for the time of the next read, or for a newcomer."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READ_INTERVAL):
                await self._is_wanted.wait()
        self._is_wanted.clear()

    def accept(self, newcomers: set[Subscriber]) -> None:
        """Subscribe newcomers that are still there."""
        self.subscribers |= newcomers & self.newcomers
        self.newcomers -= newcomers
        for subscriber in newcomers:
            subscriber.decided.set()

    def interrupt(self) -> None:
        """Accept no more subscribers, and interrupt the present ones."""
        self._is_closed = True
        for subscriber in self.subscribers | self.newcomers:
            subscriber.interrupt(StreamEndCause.LOST)


def _register_metrics(feed: SessionEndFeed, meter: Meter) -> None:
    def ended() -> Iterable[Observation]:
        for cause, count in feed.ended.items():
            yield Observation(count, {semconv.WATCH_CAUSE: cause.value})

    observe_counter(
        meter,
        semconv.ENDS_HEARD,
        lambda: feed.received,
        unit="{end}",
        description="The ends of sessions that this process has read from PostgreSQL.",
    )
    observe_counter(
        meter,
        semconv.WATCHES_ENDED,
        ended,
        unit="{stream}",
        description="The streams of WatchSessions that have ended.",
    )
