"""The rule for calls that wait in vain while the database answers others.

A call hung if it failed, and later calls overtook it: calls of its kind at its server that began
after it had waited for nothing, and that were answered in a fraction of its wait. A slow machine
delays these calls too, so the comparison holds at every load.
"""

from collections.abc import Iterator, Sequence

from grpc import StatusCode

from tests.chaos.evidence import Evidence, describe
from tests.chaos.faults import HOLDING
from tests.chaos.history import Call, Span

PROMPT = 2.0
"""Seconds after which a failed call has waited for too long. The promise is 1."""

SETTLING = 1.0
"""Seconds after a fault of `HOLDING` in which calls may still wait for the consequences."""

OVERTAKERS = 5
"""Calls that must have been answered meanwhile."""

FASTER = 4
"""Each of them took at most such a part of the wait."""

KINDS = {
    **dict.fromkeys(("ValidateSession", "BatchValidate"), "validation"),
    **dict.fromkeys(("CreateUser", "CreateSession", "ChangePassword"), "hash"),
    "GetUser": "read",
    "BatchValidateSessions": "part",  # the response to a part of BatchValidate
}
"""The calls that wait for the same; the others write."""


def hung(evidence: Evidence) -> Iterator[str]:
    """Find the calls that failed long after others of their kind were answered."""
    history = evidence.history
    holding = sorted(
        (span for span in history.faults if span.fault in HOLDING), key=lambda span: span.began
    )
    for call in history.calls:
        if call.seconds > PROMPT and _has_waited_in_vain(call):
            for wait in _undisturbed(call, holding):
                overtakers = sum(_has_overtaken(other, call, wait) for other in history.calls)
                if overtakers >= OVERTAKERS:
                    yield f"{describe(call)} was overtaken by {overtakers} calls"
                    break


def _has_waited_in_vain(call: Call) -> bool:
    is_late = call.refusal is not None and call.refusal.code is StatusCode.DEADLINE_EXCEEDED
    return is_late or call.reason == "STORAGE_UNAVAILABLE"


def _undisturbed(call: Call, holding: Sequence[Span]) -> Iterator[Span]:
    """Yield the parts of a call, longer than `PROMPT`, in which no fault let it wait."""
    began = call.began
    for span in [*holding, Span("", call.ended, call.ended)]:
        ended = min(span.began, call.ended)
        if ended - began > PROMPT:
            yield Span("", began, ended)
        began = max(began, span.ended + SETTLING)


def _has_overtaken(other: Call, call: Call, wait: Span) -> bool:
    return (
        other.is_ok
        and other.server == call.server
        and KINDS.get(other.method) == KINDS.get(call.method)
        and wait.began < other.began
        and other.ended < wait.ended
        and other.seconds * FASTER < wait.ended - wait.began
    )
