"""The calls of a run: what each asked, when, and its outcome."""

import time
from collections.abc import Awaitable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from typing import Any

import grpc
from grpc import StatusCode

from tests.support.calls import Refusal, read_refusal


class Outcome(StrEnum):
    """The client's knowledge about a call."""

    OK = "ok"
    REFUSED = "refused"
    """It has not happened."""
    UNKNOWN = "unknown"
    """It may have happened, or may still happen."""


IN_DOUBT = {StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.CANCELLED}
"""The statuses that leave open whether a call happened."""

READS = {"GetUser", "ValidateSession", "BatchValidateSessions", "BatchValidate"}
"""The methods that change nothing."""

INVENTED = {StatusCode.UNKNOWN, StatusCode.INTERNAL, StatusCode.DATA_LOSS}
"""The forbidden statuses; whether the call happened is unknown too."""


@dataclass(slots=True, eq=False)
class Call:
    """A call: its subject, its time, and its outcome."""

    method: str
    user: str = ""
    session: str = ""
    token: str = ""
    address: str = ""
    request: str = ""
    """The request id, under which a creation is repeated."""
    value: str = ""
    """The written value, or the password that was sent; every value is written once."""
    old: str = ""
    """The password before a change."""
    server: int = 0
    """The number of the server that it was made at."""
    began: float = 0.0
    ended: float = inf
    outcome: Outcome = Outcome.UNKNOWN
    version: int = 0
    refusal: Refusal | None = None
    status: bytes = b""

    @property
    def is_ok(self) -> bool:
        """Whether it succeeded."""
        return self.outcome is Outcome.OK

    @property
    def is_acknowledged(self) -> bool:
        """Whether it wrote and was acknowledged."""
        return self.is_ok and self.method not in READS

    @property
    def may_have_happened(self) -> bool:
        """Whether it was not refused."""
        return self.outcome is not Outcome.REFUSED

    @property
    def reason(self) -> str:
        """The reason of a refusal."""
        return self.refusal.reason if self.refusal else ""

    @property
    def done_by(self) -> float:
        """The latest time at which it happened, if it happened."""
        return self.ended if self.is_ok else inf

    @property
    def seconds(self) -> float:
        """Its duration."""
        return self.ended - self.began

    def refuse(self, refusal: Refusal, status: bytes) -> None:
        """Record how it was refused."""
        self.refusal, self.status = refusal, status
        in_doubt = refusal.code in IN_DOUBT | INVENTED
        self.outcome = Outcome.UNKNOWN if in_doubt else Outcome.REFUSED


@dataclass(frozen=True)
class Span:
    """A time in which a fault was present."""

    fault: str
    began: float
    ended: float


@dataclass
class Watch:
    """A stream of WatchSessions."""

    began: float
    """When its first message was read."""
    ends: set[str] = field(default_factory=set)
    """The sessions whose ends it received."""
    ended: float = inf
    """When it ended."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.ended < inf


@dataclass
class History:
    """The calls and the faults of a run."""

    calls: list[Call] = field(default_factory=list)
    faults: list[Span] = field(default_factory=list)
    heals: dict[str, list[float]] = field(default_factory=dict)
    """Seconds from the end of each fault until all was well again, by fault."""
    said: list[str] = field(default_factory=list)
    """Other problems, such as a server that did not heal."""
    watches: list[Watch] = field(default_factory=list)

    @property
    def acknowledged(self) -> int:
        """The number of acknowledged writes."""
        return sum(call.is_acknowledged for call in self.calls)

    async def record(self, call: Call, answer: Awaitable[Any]) -> Any:
        """Await a response and record it; return it, or None if there is none."""
        call.began = time.monotonic()
        self.calls.append(call)
        try:
            answered = await answer
        except grpc.aio.AioRpcError as error:
            call.refuse(read_refusal(error), _status(error))
            return None
        else:
            call.outcome = Outcome.OK
            return answered
        finally:
            call.ended = time.monotonic()

    @contextmanager
    def during(self, fault: str) -> Iterator[None]:
        """Record that a fault is present while the block runs."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.faults.append(Span(fault, began, time.monotonic()))

    def of(self, *methods: str) -> Iterable[Call]:
        """Return the calls of some methods, in the order in which they began."""
        return (call for call in self.calls if call.method in methods)


def _status(error: grpc.aio.AioRpcError) -> bytes:
    packed = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    return packed if isinstance(packed, bytes) else packed.encode()
