"""The judgement of a run on the cluster, by the rules of `tests/chaos`."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf

from tests.chaos.evidence import VALIDATIONS, Evidence, describe
from tests.chaos.history import READS, Call, Watch
from tests.chaos.read_rules import calls_after_end
from tests.chaos.rules import Promise, Violation, broken
from tests.chaos.watchers import LATEST

ACKNOWLEDGED_WITHIN = 5.0
"""The default of TAMATAR_PRIMARY_ACKNOWLEDGED_WITHIN in seconds."""

UNAVAILABLE = {"STORAGE_UNAVAILABLE", "PRIMARY_NOT_CONFIRMED"}
"""The reasons of calls that were refused because there is no primary."""

BOUND = ACKNOWLEDGED_WITHIN + 1.0
"""Seconds after a promotion in which the old primary may still be read."""


@dataclass(frozen=True)
class Moments:
    """When a fault began, another machine was promoted, and all was well again."""

    began: float
    unpromoted: float
    """When no other machine had been promoted yet."""
    promoted: float | None
    repaired: float
    healed: float
    leaves_primary: bool


@dataclass(frozen=True)
class Judgement:
    """The broken promises of a run, and its figures."""

    moments: Moments
    evidence: Evidence
    violations: Sequence[Violation]

    @property
    def is_good(self) -> bool:
        """Whether all promises were kept, and the calls could have shown a broken one."""
        return not self.violations and not self.blind

    @property
    def blind(self) -> Sequence[str]:
        """The evidence that the run lacks."""
        history = self.evidence.history
        missing = {
            "no write was acknowledged": history.acknowledged,
            "no ended session was validated": self.asked,
            "no end was reported to a watch": sum(len(watch.ends) for watch in history.watches),
        }
        return [text for text, number in missing.items() if not number]

    @property
    def asked(self) -> int:
        """The number of validations that are forbidden if they succeed."""
        over: dict[str, float] = {}
        asked = 0
        for call in self.evidence.history.of(*VALIDATIONS):
            if call.session and call.session not in over:
                over[call.session] = self.evidence.over_by(call.session, call.user)
            asked += call.began > over.get(call.session, inf) and self._is_judged(call)
        return asked

    def _is_judged(self, call: Call) -> bool:
        """Return whether an old primary may be asked, and its bound is over."""
        bounded = _end_of_bound(self.moments)
        return bounded is None or bounded < call.began < self.moments.repaired

    @property
    def counts(self) -> Counter[Promise]:
        """The number of broken promises of each kind."""
        return Counter(violation.promise for violation in self.violations)

    @property
    def stale(self) -> Sequence[float]:
        """Seconds after the promotion at which an ended session was still good."""
        since = self.moments.promoted
        if since is None:
            return []
        return [call.began - since for call in calls_after_end(self.evidence)]

    @property
    def promotion(self) -> Sequence[float]:
        """Seconds until another machine was promoted."""
        since = self.moments.promoted
        return [] if since is None else [since - self.moments.began]

    @property
    def healing(self) -> Sequence[float]:
        """Seconds from the repair until all services served."""
        return [self.moments.healed - self.moments.repaired]

    @property
    def unavailable(self) -> Sequence[float]:
        """Seconds until calls were refused as UNAVAILABLE."""
        calls = self.evidence.history.calls
        return [call.seconds for call in calls if call.reason in UNAVAILABLE]

    def gap_of_writes(self, server: int) -> float:
        """Return the longest time in which a server acknowledged no write."""
        return self._gap(call for call in self._of(server) if call.is_acknowledged)

    def gap_of_validations(self, server: int) -> float:
        """Return the longest time in which a server found no session good, and refused none."""
        return self._gap(
            call
            for call in self._of(server)
            if call.method == "ValidateSession" and (call.is_ok or not call.may_have_happened)
        )

    def _of(self, server: int) -> Iterator[Call]:
        return (call for call in self.evidence.history.calls if call.server == server)

    def _gap(self, calls: Iterable[Call]) -> float:
        first, last = self.moments.began, self.moments.healed
        inside = sorted(call.ended for call in calls if first < call.ended < last)
        points = [first, *inside, last]
        return max(later - earlier for earlier, later in pairwise(points))


def judge(evidence: Evidence, moments: Moments) -> Judgement:
    """Judge a run. What an old primary may still answer after a promotion is no violation."""
    violations = broken(_without_bound(evidence, moments))
    violations += [Violation(Promise.NOTIFIED, text) for text in _deaf(evidence)]
    return Judgement(moments, evidence, violations)


def _without_bound(evidence: Evidence, moments: Moments) -> Evidence:
    until = _end_of_bound(moments)
    if until is None:
        return evidence
    calls = [
        call
        for call in evidence.history.calls
        if not (_may_be_stale(call) and moments.unpromoted < call.began < until)
    ]
    return Evidence(replace(evidence.history, calls=calls), evidence.stored)


def _end_of_bound(moments: Moments) -> float | None:
    """Return until when an old primary may be read, or None if none runs on."""
    if moments.promoted is None or not moments.leaves_primary:
        return None
    return moments.promoted + BOUND


def _may_be_stale(call: Call) -> bool:
    """Return whether an old primary could have answered: it acknowledges no write."""
    return call.method in READS or not call.may_have_happened


def _deaf(evidence: Evidence) -> Iterator[str]:
    """Find the watches that stayed open, and did not report an end for too long."""
    ends = [call for call in evidence.history.of("RevokeSession") if call.is_ok]
    for watch in evidence.history.watches:
        missed = [end for end in ends if _is_missed(evidence, watch, end)]
        if missed:
            since = f"the watch from {watch.began:.3f} to {watch.ended:.3f}"
            yield f"{describe(missed[0])} and {len(missed) - 1} others did not reach {since}"


def _is_missed(evidence: Evidence, watch: Watch, end: Call) -> bool:
    return (
        watch.began < end.began
        and end.ended + LATEST < watch.ended
        and end.session not in watch.ends
        # A session that had ended before the watch began ends no more.
        and not evidence.may_have_ended(end.session, end.user, min(watch.began, end.began))
    )
