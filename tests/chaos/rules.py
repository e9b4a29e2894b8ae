"""What is promised, and the rules by which it is seen to be broken."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from tests.chaos import read_rules as told_truths
from tests.chaos import status_rules as proper_statuses
from tests.chaos import write_rules as kept_writes
from tests.chaos.evidence import Evidence

Rule = Callable[[Evidence], Iterable[str]]
"""Tells how a promise was broken, once for each time."""


class Promise(StrEnum):
    """What is promised, as the table says it."""

    KEPT = "acknowledged writes that were lost"
    NOTHING_ELSE = "changes that nobody was told of, or that were refused"
    ENDED = "sessions, passwords and users good after their end was answered"
    TOLD = "ends of sessions that a watcher was not told of"
    STALE = "reads that miss what was answered before"
    ALONE = "addresses with two live users"
    WHOLE = "changes that happened by halves"
    REASONED = "refusals without a reason in the history"
    STATUS = "calls that ended UNKNOWN or INTERNAL"
    SILENT = "statuses that tell more than they should"
    RETRY = "refusals that will pass, without RetryInfo"
    HEALED = "faults that did not heal by themselves"


@dataclass(frozen=True)
class Violation:
    """A promise that was broken, and how."""

    promise: Promise
    text: str


RULES: dict[Promise, tuple[Rule, ...]] = {
    Promise.KEPT: (kept_writes.lost_rows, kept_writes.lost_ends, kept_writes.lost_changes),
    Promise.NOTHING_ELSE: (kept_writes.uncalled_rows, kept_writes.uncalled_changes),
    Promise.ENDED: (
        told_truths.good_after_end,
        told_truths.old_passwords,
        told_truths.used_after_deletion,
    ),
    Promise.TOLD: (told_truths.untold_ends,),
    Promise.STALE: (told_truths.stale_reads,),
    Promise.ALONE: (kept_writes.shared_addresses,),
    Promise.WHOLE: (kept_writes.halves,),
    Promise.REASONED: (told_truths.unreasoned, proper_statuses.disturbed),
    Promise.STATUS: (proper_statuses.invented,),
    Promise.SILENT: (proper_statuses.leaks,),
    Promise.RETRY: (proper_statuses.without_retry,),
    Promise.HEALED: (lambda evidence: evidence.history.said,),
}


def broken(evidence: Evidence) -> list[Violation]:
    """Return every broken promise."""
    return [
        Violation(promise, text)
        for promise, rules in RULES.items()
        for rule in rules
        for text in rule(evidence)
    ]
