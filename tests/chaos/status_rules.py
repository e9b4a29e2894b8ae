"""Rules for statuses: what they say, and what they must not say."""

from collections.abc import Iterator

from grpc import StatusCode

from tests.chaos.evidence import Evidence, describe
from tests.chaos.faults import AT_REST, AWAY
from tests.chaos.history import IN_DOUBT, INVENTED
from tests.chaos.status_messages import SENTENCES, TELLTALES

PASSING = {
    *("STORAGE_UNAVAILABLE", "SERVICE_STOPPING", "TRANSACTION_CONFLICT"),
    *("SERVER_BUSY", "TOO_MANY_ATTEMPTS", "PRIMARY_NOT_CONFIRMED"),
}
"""Reasons that need a retry delay."""

RECONNECTING = 5.0
"""Seconds after the return of a server in which a client may not have found it again."""


CANCELLED_WAITS = 0.9
"""Seconds after which a refused call has waited for a new connection as long as it may (1 s). If
none was opened in this time, the machine is slow: a dead connection is reported at once."""


def disturbed(evidence: Evidence) -> Iterator[str]:
    rests = [span for span in evidence.history.faults if span.fault == AT_REST]
    for call in evidence.history.calls:
        is_sudden = call.reason == "STORAGE_UNAVAILABLE" and call.seconds < CANCELLED_WAITS
        if is_sudden and any(span.began <= call.began < span.ended for span in rests):
            yield f"{describe(call)} noticed a connection that died at rest"


def invented(evidence: Evidence) -> Iterator[str]:
    for call in evidence.history.calls:
        if call.refusal and call.refusal.code in INVENTED:
            yield f"{describe(call)}: {call.refusal.message}"


def leaks(evidence: Evidence) -> Iterator[str]:
    away = [span for span in evidence.history.faults if span.fault in AWAY]
    for call in evidence.history.calls:
        if call.refusal is None or call.method == "BatchValidateSessions":
            continue
        if call.status:
            said = call.status + call.refusal.message.encode()
            if call.refusal.message not in SENTENCES or any(w in said for w in TELLTALES):
                yield f"{describe(call)} said {call.refusal.message!r}"
        elif call.refusal.code is StatusCode.UNAVAILABLE:
            near = (s for s in away if s.began <= call.ended)
            if not any(call.began <= s.ended + RECONNECTING for s in near):
                yield f"{describe(call)} without a reason: {call.refusal.message!r}"
        elif call.refusal.code not in IN_DOUBT | INVENTED:
            yield f"{describe(call)} without a reason: {call.refusal.message!r}"


def without_retry(evidence: Evidence) -> Iterator[str]:
    for call in evidence.history.calls:
        said = call.refusal
        if said and said.reason in PASSING and said.retry_seconds is None:
            yield describe(call)
