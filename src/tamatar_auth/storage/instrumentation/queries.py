"""Watches statements: spans, durations, a tally for each call, and warnings of slow ones.

Parameters and the texts of errors are looked at nowhere in here: they hold what users keep.
"""

import logging
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import timedelta
from logging import DEBUG, WARNING
from time import perf_counter
from typing import Any, NamedTuple

import psycopg
import structlog
from opentelemetry.metrics import Histogram, Meter
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, get_current_span
from sqlalchemy import Connection, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry

from tamatar_auth.observability import semconv as names
from tamatar_auth.storage.instrumentation.statement_summary import Subject, subject
from tamatar_auth.storage.sqlstates import sqlstate

MAX_TEXT = 2048
"""The most characters of a statement in a span."""

_SYSTEM = "postgresql"
_PLACE = "telemetry"

log = structlog.get_logger(__name__)
_levels = logging.getLogger(__name__)


class Tally:
    """The statements of one call, and their seconds."""

    __slots__ = ("seconds", "statements")

    def __init__(self) -> None:
        self.statements = 0
        self.seconds = 0.0


tally: ContextVar[Tally | None] = ContextVar("tally", default=None)
"""What the statements of the current call are added to."""


def watch_queries(
    engine: AsyncEngine,
    slow_query: timedelta,
    *,
    tracer: Tracer | None = None,
    meter: Meter | None = None,
) -> "QueryWatch":
    """Watch every statement of an engine, with spans and metrics if there is what makes them.

    Return the watch: statements that do not go through the engine are told to it.
    """
    watch = QueryWatch(slow_query.total_seconds(), tracer, meter)
    event.listen(engine.sync_engine, "before_cursor_execute", watch.before)
    event.listen(engine.sync_engine, "after_cursor_execute", watch.after)
    event.listen(engine.sync_engine, "handle_error", watch.failed)
    if tracer is not None:
        event.listen(engine.sync_engine, "connect", _remember_place)
    return watch


class Watched(NamedTuple):
    """A statement that runs."""

    started: float
    span: Span | None


class QueryWatch:
    """Follows each statement from before it is sent until its rows are there, or it failed."""

    def __init__(self, slow: float, tracer: Tracer | None, meter: Meter | None) -> None:
        self._slow = slow
        self._tracer = tracer
        self._durations = _durations(meter) if meter is not None else None

    def before(
        self,
        connection: Connection,
        _cursor: Any,
        text: str,
        _values: Any,
        context: Any,
        _many: Any,
    ) -> None:
        """Begin to follow a statement of an engine."""
        span = None
        if self._is_traced():
            about, place = subject(context.compiled, text), connection.info.get(_PLACE, {})
            # What was not compiled may have its values in the text.
            span = self._start_span(about, None if context.compiled is None else text, place)
        context.watched = Watched(perf_counter(), span)

    def after(
        self, _connection: Any, _cursor: Any, text: str, _values: Any, context: Any, _many: Any
    ) -> None:
        """End a statement whose rows are there."""
        self._ended(context, text, None)

    def failed(self, failure: ExceptionContext) -> None:
        """End a statement that failed or was cancelled."""
        if failure.execution_context is not None:
            self._ended(failure.execution_context, failure.statement, failure.original_exception)

    def begin(self, about: Subject, text: str, info: psycopg.ConnectionInfo) -> "Watched":
        """Begin to follow a statement that no engine runs. Its text has no values."""
        span = self._start_span(about, text, _place(info)) if self._is_traced() else None
        return Watched(perf_counter(), span)

    def end(self, watched: "Watched", about: Subject, error: BaseException | None) -> None:
        """End such a statement."""
        seconds = _end(watched, error)
        if self._is_told(seconds):
            self._tell(about, seconds, error)

    def _ended(self, context: Any, text: str | None, error: BaseException | None) -> None:
        watched: Watched | None = getattr(context, "watched", None)
        if watched is None:  # it failed before it was sent, or after it had ended
            return
        context.watched = None
        seconds = _end(watched, error)
        if self._is_told(seconds):
            self._tell(subject(context.compiled, text or ""), seconds, error)

    def _is_traced(self) -> bool:
        return self._tracer is not None and get_current_span().is_recording()

    def _start_span(self, about: Subject, text: str | None, place: Mapping[str, Any]) -> Span:
        assert self._tracer is not None  # noqa: S101 - for the type checker
        facts = {
            names.DB_SYSTEM: _SYSTEM,
            names.DB_OPERATION: about.operation,
            names.DB_SUMMARY: about.summary,
            **place,
        }
        if about.table is not None:
            facts[names.DB_COLLECTION] = about.table
        if text is not None:
            facts[names.DB_TEXT] = text[:MAX_TEXT]
        return self._tracer.start_span(about.summary, kind=SpanKind.CLIENT, attributes=facts)

    def _is_told(self, seconds: float) -> bool:
        return self._durations is not None or seconds > self._slow or _levels.isEnabledFor(DEBUG)

    def _tell(self, about: Subject, seconds: float, error: BaseException | None) -> None:
        if self._durations is not None:
            self._durations.record(seconds, _labels(about, error))
        is_slow = seconds > self._slow
        if is_slow or _levels.isEnabledFor(DEBUG):
            told = {} if error is None else {"error": error_type(error)}
            log.log(
                WARNING if is_slow else DEBUG,
                "slow statement" if is_slow else "statement",
                table=about.table,
                operation=about.operation,
                seconds=round(seconds, 6),
                **told,
            )


def error_type(error: BaseException) -> str:
    """Name an error in few enough values for a metric: its SQLSTATE, or else its class."""
    return sqlstate(error) or type(error).__qualname__


def _durations(meter: Meter) -> Histogram:
    return meter.create_histogram(
        names.DB_DURATION,
        unit="s",
        description="Duration of database client operations.",
        explicit_bucket_boundaries_advisory=names.DB_SECONDS,
    )


def _end(watched: Watched, error: BaseException | None) -> float:
    """End a statement; give the seconds that it took."""
    seconds = perf_counter() - watched.started
    counted = tally.get()
    if counted is not None:
        counted.statements += 1
        counted.seconds += seconds
    if watched.span is not None:
        _end_span(watched.span, error)
    return seconds


def _end_span(span: Span, error: BaseException | None) -> None:
    if error is not None:
        span.set_attribute(names.ERROR_TYPE, error_type(error))
        if state := sqlstate(error):
            span.set_attribute(names.DB_STATUS, state)
        span.set_status(StatusCode.ERROR)
    span.end()


def _labels(about: Subject, error: BaseException | None) -> dict[str, str]:
    labels = {names.DB_SYSTEM: _SYSTEM, names.DB_OPERATION: about.operation}
    if about.table is not None:
        labels[names.DB_COLLECTION] = about.table
    if error is not None:
        labels[names.ERROR_TYPE] = error_type(error)
    return labels


def _remember_place(connection: Any, record: ConnectionPoolEntry) -> None:
    # Asked once: with several hosts in the URL each connection may lead elsewhere.
    record.info[_PLACE] = _place(connection.driver_connection.info)


def _place(info: psycopg.ConnectionInfo) -> Mapping[str, Any]:
    return {
        names.DB_NAMESPACE: info.dbname,
        names.SERVER_ADDRESS: info.host,
        names.SERVER_PORT: info.port,
    }
