"""Observes statements: spans, durations, totals for each call, and warnings of slow statements.

This module never reads parameters or the texts of errors, because they hold users' data.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
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

from tamatar_auth.observability import semconv
from tamatar_auth.storage.instrumentation.call_record import current_call
from tamatar_auth.storage.instrumentation.statement_summary import StatementSummary, summarize
from tamatar_auth.storage.sqlstates import sqlstate

MAX_TEXT = 2048
"""Characters of a statement's text in a span, at most."""

_SYSTEM = "postgresql"
_SERVER_KEY = "telemetry"

log = structlog.get_logger(__name__)
_stdlib_log = logging.getLogger(__name__)


def observe_statements(
    engine: AsyncEngine,
    slow_query: timedelta,
    *,
    tracer: Tracer | None = None,
    meter: Meter | None = None,
) -> "StatementObserver":
    """Observe every statement of an engine: spans with a tracer, durations with a meter.

    Return the observer. Code that runs statements without the engine reports them to it.
    """
    observer = StatementObserver(slow_query.total_seconds(), tracer, meter)
    event.listen(engine.sync_engine, "before_cursor_execute", observer.before_execute)
    event.listen(engine.sync_engine, "after_cursor_execute", observer.after_execute)
    event.listen(engine.sync_engine, "handle_error", observer.on_error)
    event.listen(engine.sync_engine, "connect", observer.attach)
    return observer


class RunningStatement(NamedTuple):
    """A statement that has not ended."""

    started: float
    span: Span | None


class StatementObserver:
    """Observes each statement from its start until it has returned its rows or failed."""

    def __init__(self, slow: float, tracer: Tracer | None, meter: Meter | None) -> None:
        self._slow = slow
        self._tracer = tracer
        self._durations: Histogram | None = None
        if meter is not None:
            self._durations = meter.create_histogram(
                semconv.DB_DURATION,
                unit="s",
                description="Duration of database client operations.",
                explicit_bucket_boundaries_advisory=semconv.DB_SECONDS,
            )

    def attach(self, connection: Any, record: ConnectionPoolEntry) -> None:
        """Observe the ends of the transactions of a new connection."""
        connection.driver_connection.observe = self.observe_text
        if self._tracer is not None:
            # Once for each connection: with several hosts in the URL their servers may differ.
            record.info[_SERVER_KEY] = _server_attributes(connection.driver_connection.info)

    def before_execute(
        self,
        connection: Connection,
        _cursor: Any,
        text: str,
        _values: Any,
        context: Any,
        _many: Any,
    ) -> None:
        """Begin to observe a statement of an engine."""
        span = None
        if self._is_traced():
            summary = summarize(context.execution_options, text)
            server_attributes = connection.info.get(_SERVER_KEY, {})
            # Text that SQLAlchemy did not compile may contain values.
            span = self._start_span(
                summary, None if context.compiled is None else text, server_attributes
            )
        context.running_statement = RunningStatement(perf_counter(), span)

    def after_execute(
        self, _connection: Any, _cursor: Any, text: str, _values: Any, context: Any, _many: Any
    ) -> None:
        """End the observation of a statement that returned its rows."""
        self._finish(context, text, None)

    def on_error(self, failure: ExceptionContext) -> None:
        """End the observation of a statement that failed or was cancelled."""
        if failure.execution_context is not None:
            self._finish(failure.execution_context, failure.statement, failure.original_exception)

    @contextmanager
    def observe(
        self, summary: StatementSummary, text: str, info: psycopg.ConnectionInfo
    ) -> Iterator[None]:
        """Observe a statement that no engine runs. Its text contains no values."""
        span, failure = None, None
        if self._is_traced():
            span = self._start_span(summary, text, _server_attributes(info))
        running_statement = RunningStatement(perf_counter(), span)
        try:
            yield
        except BaseException as error:
            failure = error
            raise
        finally:
            self._report(summary, _record_end(running_statement, failure), failure)

    def observe_text(self, text: str, info: psycopg.ConnectionInfo) -> AbstractContextManager[None]:
        """Observe a statement that no engine runs, and that has no summary."""
        return self.observe(summarize({}, text), text, info)

    def _finish(self, context: Any, text: str | None, error: BaseException | None) -> None:
        running_statement: RunningStatement | None = getattr(context, "running_statement", None)
        if running_statement is None:  # it failed before its start, or after its end
            return
        context.running_statement = None
        seconds = _record_end(running_statement, error)
        is_reported = self._durations or seconds > self._slow or _stdlib_log.isEnabledFor(DEBUG)
        if is_reported:
            self._report(summarize(context.execution_options, text or ""), seconds, error)

    def _is_traced(self) -> bool:
        return self._tracer is not None and get_current_span().is_recording()

    def _start_span(
        self, summary: StatementSummary, text: str | None, server_attributes: Mapping[str, Any]
    ) -> Span:
        assert self._tracer is not None  # noqa: S101 - for the type checker
        attributes = {
            **_labels(summary, None),
            semconv.DB_SUMMARY: summary.description,
            **server_attributes,
        }
        if text is not None:
            attributes[semconv.DB_TEXT] = text[:MAX_TEXT]
        call = current_call.get()
        return self._tracer.start_span(
            summary.description,
            kind=SpanKind.CLIENT,
            attributes=attributes,
            links=None if call is None else call.links,
        )

    def _report(
        self, summary: StatementSummary, seconds: float, error: BaseException | None
    ) -> None:
        if self._durations is not None:
            self._durations.record(seconds, _labels(summary, error))
        is_slow = seconds > self._slow
        if is_slow or _stdlib_log.isEnabledFor(DEBUG):
            call = current_call.get()
            rpc_field = {} if call is None else {"rpc": call.rpc}
            error_field = {} if error is None else {"error": error_type(error)}
            log.log(
                WARNING if is_slow else DEBUG,
                "slow statement" if is_slow else "statement",
                **rpc_field,
                summary=summary.description,
                table=summary.table,
                operation=summary.operation,
                seconds=round(seconds, 6),
                **error_field,
            )


def error_type(error: BaseException) -> str:
    """Return the SQLSTATE of an error, or else its class: few enough values for a metric."""
    return sqlstate(error) or type(error).__qualname__


def _record_end(running_statement: RunningStatement, error: BaseException | None) -> float:
    """End the span of a statement, add to the totals, and return its seconds."""
    seconds = perf_counter() - running_statement.started
    call = current_call.get()
    for sampled in () if call is None else call.sampled:
        sampled.statements += 1
        sampled.seconds += seconds
    if (span := running_statement.span) is not None:
        if error is not None:
            span.set_attribute(semconv.ERROR_TYPE, error_type(error))
            if state := sqlstate(error):
                span.set_attribute(semconv.DB_STATUS, state)
            span.set_status(StatusCode.ERROR)
        span.end()
    return seconds


def _labels(summary: StatementSummary, error: BaseException | None) -> dict[str, str]:
    labels = {semconv.DB_SYSTEM: _SYSTEM, semconv.DB_OPERATION: summary.operation}
    if summary.table is not None:
        labels[semconv.DB_COLLECTION] = summary.table
    if error is not None:
        labels[semconv.ERROR_TYPE] = error_type(error)
        if state := sqlstate(error):
            labels[semconv.DB_STATUS] = state
    return labels


def _server_attributes(info: psycopg.ConnectionInfo) -> Mapping[str, Any]:
    return {
        semconv.DB_NAMESPACE: info.dbname,
        semconv.SERVER_ADDRESS: info.host,
        semconv.SERVER_PORT: info.port,
    }
