"""The calls that a statement works for: their method, and the spans of the sampled ones."""

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass

from opentelemetry import context as otel_context
from opentelemetry.trace import Link, Span, set_span_in_context

MAX_LINKS = 64
"""Calls that the span of a shared statement links to."""


class SampledCall:
    """A call with a recorded span, the number of its statements, and their total duration."""

    __slots__ = ("seconds", "span", "statements")

    def __init__(self, span: Span) -> None:
        self.span = span
        self.statements = 0
        self.seconds = 0.0


@dataclass(slots=True)
class CallRecord:
    """The call that a statement works for, or the calls that share it."""

    rpc: str
    """The method, such as `tamatar.auth.v1.UserService/GetUser`."""
    sampled: Sequence[SampledCall] = ()
    is_shared: bool = False

    @property
    def links(self) -> Sequence[Link]:
        """The links of a statement's span, if several calls may share the statement."""
        linked = self.sampled[:MAX_LINKS] if self.is_shared else ()
        return [Link(call.span.get_span_context()) for call in linked]


current_call: ContextVar[CallRecord | None] = ContextVar("current_call", default=None)
"""The current call. Set in the task of a call, or of a shared statement."""


def share_statements(rpc: str, sampled: Sequence[SampledCall]) -> None:
    """Count the statements of the current task for several calls.

    Their spans are children of the first call's, whose sampling decision they follow.
    """
    current_call.set(CallRecord(rpc, sampled, is_shared=True))
    if sampled:
        otel_context.attach(set_span_in_context(sampled[0].span))
