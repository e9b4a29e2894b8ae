"""A span and a duration for each call, and the caller's trace for its log lines."""

import asyncio
from functools import cache
from time import perf_counter
from typing import Any

from grpc import StatusCode
from grpc._cython import cygrpc
from grpc.aio import AbortError
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.metrics import Histogram, Meter

from tamatar_auth.interceptors.base import Behaviour, Context, Interceptor, Method
from tamatar_auth.observability import semconv, tracing
from tamatar_auth.storage.instrumentation.call_record import (
    CallRecord,
    SampledCall,
    current_call,
)

SERVER_ERRORS = frozenset(
    {
        StatusCode.UNKNOWN,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.UNIMPLEMENTED,
        StatusCode.INTERNAL,
        StatusCode.UNAVAILABLE,
        StatusCode.DATA_LOSS,
    }
)
"""The statuses that mean a fault of the server; the others are answers."""

UNTRACED = ("grpc.health.", "grpc.reflection.")
"""The services without spans, because probes call them all the time."""

_SYSTEM = "grpc"

# A caller's clock may end a call a moment before ours.
_DEADLINE_SLACK = 0.01  # seconds


class TelemetryInterceptor(Interceptor):
    """Records each call with its final status, so it is the outermost interceptor.

    Without a tracer and a meter it only passes the caller's trace and the method to the log.
    """

    def __init__(self, *, tracer: trace.Tracer | None = None, meter: Meter | None = None) -> None:
        self._tracer = tracer
        self._durations = _durations(meter) if meter is not None else None

    def wrap(self, behaviour: Behaviour, method: Method) -> Behaviour:
        """Record the calls of a method."""
        durations, name = self._durations, f"{method.service}/{method.name}"
        unsampled = CallRecord(name)
        tracer = None if method.service.startswith(UNTRACED) else self._tracer
        if tracer is None and durations is None:
            return _with_caller_trace(behaviour, unsampled)

        async def recorded(request: Any, context: Context) -> Any:
            sampled, call_context = _begin(unsampled, tracer, context)
            status = StatusCode.UNKNOWN
            started = perf_counter()
            try:
                answer = await behaviour(request, context)
                status = context.code() or StatusCode.OK
            except AbortError:
                status = context.code() or StatusCode.UNKNOWN
                raise
            except (asyncio.CancelledError, cygrpc.ExecuteBatchError):
                status = _cancelled_status(context)
                raise
            finally:
                if durations is not None:
                    durations.record(perf_counter() - started, _labels(name, status), call_context)
                if sampled is not None:
                    _end_span(sampled, status)
            return answer

        return recorded


def _begin(
    record: CallRecord, tracer: trace.Tracer | None, context: Context
) -> tuple[SampledCall | None, otel_context.Context]:
    """Start the span of a call; nothing is reset, because each call has its own task."""
    call_context = parent = tracing.caller_context(context) or otel_context.Context()
    sampled = None
    if tracer is not None:
        attributes = {semconv.RPC_SYSTEM: _SYSTEM, semconv.RPC_METHOD: record.rpc}
        span = tracer.start_span(record.rpc, parent, trace.SpanKind.SERVER, attributes)
        call_context = trace.set_span_in_context(span, parent)
        if span.is_recording():
            sampled = SampledCall(span)
            record = CallRecord(record.rpc, (sampled,))
    current_call.set(record)
    otel_context.attach(call_context)
    return sampled, call_context


def _with_caller_trace(behaviour: Behaviour, record: CallRecord) -> Behaviour:
    async def call(request: Any, context: Context) -> Any:
        tracing.untraced_call.set(context)  # never reset: the call has its own task
        current_call.set(record)
        return await behaviour(request, context)

    return call


def _cancelled_status(context: Context) -> StatusCode:
    remaining = context.time_remaining()
    if remaining is not None and remaining <= _DEADLINE_SLACK:
        return StatusCode.DEADLINE_EXCEEDED
    return StatusCode.CANCELLED


def _end_span(sampled: SampledCall, status: StatusCode) -> None:
    span = sampled.span
    span.set_attribute(semconv.RPC_STATUS, status.name)
    span.set_attribute(semconv.CALL_STATEMENTS, sampled.statements)
    span.set_attribute(semconv.CALL_SECONDS, sampled.seconds)
    if status in SERVER_ERRORS:
        span.set_attribute(semconv.ERROR_TYPE, status.name)
        span.set_status(trace.StatusCode.ERROR)
    span.end()


@cache
def _labels(method: str, status: StatusCode) -> dict[str, str]:
    labels = {
        semconv.RPC_SYSTEM: _SYSTEM,
        semconv.RPC_METHOD: method,
        semconv.RPC_STATUS: status.name,
    }
    if status in SERVER_ERRORS:
        labels[semconv.ERROR_TYPE] = status.name
    return labels


def _durations(meter: Meter) -> Histogram:
    return meter.create_histogram(
        semconv.RPC_DURATION,
        unit="s",
        description="Measures the duration of an incoming Remote Procedure Call (RPC).",
        explicit_bucket_boundaries_advisory=semconv.RPC_SECONDS,
    )
