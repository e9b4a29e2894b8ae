"""The trace of a call."""

from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any, Protocol

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_TRACE_PARENT = "traceparent"
_MAX_TRACE_PARENT_LENGTH = 512  # characters; the propagator logs a warning for longer ones

_propagator = TraceContextTextMapPropagator()


class Call(Protocol):
    """The part of gRPC's context that is read here."""

    def invocation_metadata(self) -> Iterable[Any] | None:
        """Return the metadata that the caller sent."""


untraced_call: ContextVar[Call | None] = ContextVar("untraced_call", default=None)
"""The current call, if it has no span of its own. Set in the call's task only."""


def caller_context(call: Call) -> otel_context.Context | None:
    """Return the caller's span, or None if the call names no valid one.

    The trace state and the baggage of callers are ignored.
    """
    for key, value in call.invocation_metadata() or ():
        if key == _TRACE_PARENT and len(value) <= _MAX_TRACE_PARENT_LENGTH:
            carrier = {_TRACE_PARENT: [str(value)]}
            return _propagator.extract(carrier, otel_context.Context()) or None
    return None


def current_span_context() -> trace.SpanContext:
    """Return the current span, or the caller's if this service makes no spans.

    The caller's is parsed here and not for every call, because few calls log anything.
    """
    span = trace.get_current_span()
    call = untraced_call.get()
    if call is not None and not span.get_span_context().is_valid:
        span = trace.get_current_span(caller_context(call) or otel_context.Context())
    return span.get_span_context()
