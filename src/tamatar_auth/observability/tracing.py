"""The trace that a call belongs to."""

from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any, Protocol

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_TRACE_PARENT = "traceparent"
_MAX_TRACE_PARENT_LENGTH = 512  # characters; the propagator warns of longer ones

_propagator = TraceContextTextMapPropagator()


class Call(Protocol):
    """A call as gRPC gives it."""

    def invocation_metadata(self) -> Iterable[Any] | None:
        """Return the keys and values that its caller sent."""


untraced_call: ContextVar[Call | None] = ContextVar("untraced_call", default=None)
"""The call that is answered, where no span is made of it. Its task keeps it, and nothing else."""


def caller_context(call: Call) -> otel_context.Context | None:
    """Return the caller's span, or None where it names none that is valid.

    Nothing else that callers can put into a trace (its state, its baggage) is believed.
    """
    for key, value in call.invocation_metadata() or ():
        if key == _TRACE_PARENT and len(value) <= _MAX_TRACE_PARENT_LENGTH:
            return (
                _propagator.extract({_TRACE_PARENT: [str(value)]}, otel_context.Context()) or None
            )
    return None


def current_span_context() -> trace.SpanContext:
    """Return the current span, or the caller's where this service makes none.

    That one is looked for only here: few calls log anything.
    """
    span = trace.get_current_span()
    call = untraced_call.get()
    if call is not None and not span.get_span_context().is_valid:
        span = trace.get_current_span(caller_context(call) or otel_context.Context())
    return span.get_span_context()
