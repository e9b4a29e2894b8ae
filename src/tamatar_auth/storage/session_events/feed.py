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
from opentelemetry.metrics import CallbackOptions, Meter, Observation

from tamatar_auth.config.settings import Settings
from tamatar_auth.errors import ServiceStopping
from tamatar_auth.errors.storage import StorageUnavailable
from tamatar_auth.observability import semconv as names
from tamatar_auth.storage import sqlstates as faults
from tamatar_auth.storage.driver.connection import Abandoned
from tamatar_auth.storage.session_events.listener import NothingToldError, listener, listening, look
from tamatar_auth.storage.session_events.subscriber import Cause, SessionEnd, Watcher

INTERVAL = 1.0
"""Seconds between two looks at the connection; its silence is noticed by these alone."""

LONGEST_REST = 30.0
"""Seconds after which the connection is closed when nobody watches."""

log = structlog.get_logger(__name__)


class SessionEnds:
    """Hears of the ends of sessions while somebody watches."""

    def __init__(
        self, settings: Settings, abandoned: Abandoned, meter: Meter | None = None
    ) -> None:
        self._connect = listener(settings, abandoned)
        self._patience = settings.pool_wait.total_seconds()
        self._hearing: _Hearing | None = None
        self._is_closed = False
        self._said: str | None = "nobody watches"
        self.heard = 0
        """How many ends PostgreSQL told of."""
        self.ended = dict.fromkeys(Cause, 0)
        """How many do not watch any more."""
        if meter is not None:
            _watch(self, meter)

    @contextlib.asynccontextmanager
    async def watch(self) -> AsyncIterator[Watcher]:
        """Tell of each end from now on, or raise `StorageUnavailable`."""
        hearing, watcher = await self._heard(), Watcher()
        hearing.watchers.add(watcher)
        try:
            yield watcher
        finally:
            hearing.watchers.discard(watcher)
            hearing.needed_at = monotonic()
            self.ended[watcher.interrupted or Cause.LEFT] += 1

    def forget(self) -> None:
        """Hear no more of the server that is heard: it is the wrong one."""
        if self._hearing is not None:
            self._hearing.task.cancel()
            self._end(self._hearing)

    async def close(self) -> None:
        """Interrupt all who watch, and close the connection."""
        self._is_closed = True
        if self._hearing is not None:
            task = self._hearing.task
            self.forget()
            await asyncio.wait([task])

    async def _heard(self) -> "_Hearing":
        """Return the connection that hears now, a new one if there is none."""
        if self._is_closed:
            raise ServiceStopping
        hearing = self._hearing = self._hearing or _Hearing(self._hear)
        hearing.needed_at = monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                await hearing.decided.wait()
        # Nothing is waited for after this, until the watcher is told of what comes.
        if not hearing.is_live:
            raise StorageUnavailable
        return hearing

    async def _hear(self, hearing: "_Hearing") -> None:
        """Hear until the connection is lost, or nobody needs it."""
        try:
            async with listening(self._connect) as connection:
                self._say(None)
                hearing.begin()
                while hearing.is_needed:
                    async for told in connection.notifies(timeout=INTERVAL):
                        self._tell(hearing, told.payload)
                    await look(connection)
                self._end(hearing)
                self._said = "nobody watches"
        except NothingToldError as error:
            self._say(str(error))
        except (psycopg.Error, OSError, TimeoutError) as error:
            self._say(f"the connection is lost ({faults.sqlstate(error) or type(error).__name__})")
        finally:
            self._end(hearing)

    def _tell(self, hearing: "_Hearing", payload: str) -> None:
        self.heard += 1
        end = _read(payload)
        for watcher in hearing.watchers:
            if end is not None:
                watcher.tell(end)
            else:  # sessions ended, but which?
                watcher.interrupt(Cause.LOST)

    def _say(self, why: str | None) -> None:
        """Log what changed: that ends are heard, or why they are not."""
        if why == self._said:
            return
        self._said = why
        if why is None:
            log.info("session ends are heard")
        else:
            log.warning("session ends are not heard", why=why)

    def _end(self, hearing: "_Hearing") -> None:
        if self._hearing is hearing:
            self._hearing = None
        hearing.end()


class _Hearing:
    """One connection that hears, from before it is opened to its end."""

    def __init__(self, hear: Callable[["_Hearing"], Coroutine[Any, Any, None]]) -> None:
        self.watchers: set[Watcher] = set()
        self.needed_at = monotonic()
        self.decided = asyncio.Event()
        """Set when it is known whether it hears."""
        self.is_live = False
        # In a context of its own: the call that it is opened for ends before it.
        self.task = asyncio.get_running_loop().create_task(hear(self), context=Context())

    @property
    def is_needed(self) -> bool:
        """Whether somebody watches, or did so lately."""
        return bool(self.watchers) or monotonic() - self.needed_at < LONGEST_REST

    def begin(self) -> None:
        """Hear from now on."""
        self.is_live = True
        self.decided.set()

    def end(self) -> None:
        """Hear no more, and say so."""
        self.is_live = False
        self.decided.set()
        for watcher in self.watchers:
            watcher.interrupt(Cause.LOST)


def _read(payload: str) -> SessionEnd | None:
    """Read what a trigger told; None where that is something else."""
    user_id, _, session_id = payload.partition(" ")
    try:
        return SessionEnd(UUID(user_id), UUID(session_id) if session_id else None)
    except ValueError:
        return None


def _watch(ends: SessionEnds, meter: Meter) -> None:
    def heard(_options: CallbackOptions) -> Iterable[Observation]:
        yield Observation(ends.heard)

    def ended(_options: CallbackOptions) -> Iterable[Observation]:
        for cause, count in ends.ended.items():
            yield Observation(count, {names.WATCH_CAUSE: cause.value})

    meter.create_observable_counter(
        names.ENDS_HEARD,
        [heard],
        unit="{end}",
        description="The ends of sessions that the database told of.",
    )
    meter.create_observable_counter(
        names.WATCHES_ENDED,
        [ended],
        unit="{stream}",
        description="The streams of WatchSessions that have ended.",
    )
