"""The promises, and the rules that find a broken one."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from tests.chaos import read_rules, status_rules, waiting_rules, write_rules
from tests.chaos.evidence import Evidence

Rule = Callable[[Evidence], Iterable[str]]
"""Yields a text for each time that a promise was broken."""


class Promise(StrEnum):
    """A promise, with the text of the table."""

    KEPT = "acknowledged writes that were lost"
    NOTHING_ELSE = "changes that no client knows of, or that were refused"
    ENDED = "sessions, passwords and users good after their end was answered"
    NOTIFIED = "ends of sessions that a watcher did not receive"
    STALE = "reads that miss what was answered before"
    ALONE = "addresses with two live users"
    WHOLE = "changes that happened by halves"
    REASONED = "refusals without a reason in the history"
    STATUS = "calls that ended UNKNOWN or INTERNAL"
    SILENT = "statuses that reveal more than they should"
    RETRY = "refusals that will pass, without RetryInfo"
    PROMPT = "calls that waited in vain while others were answered"
    HEALED = "faults that did not heal by themselves"


@dataclass(frozen=True)
class Violation:
    """A broken promise, and how it was broken."""

    promise: Promise
    text: str


RULES: dict[Promise, tuple[Rule, ...]] = {
    Promise.KEPT: (write_rules.lost_rows, write_rules.lost_ends, write_rules.lost_changes),
    Promise.NOTHING_ELSE: (write_rules.uncalled_rows, write_rules.uncalled_changes),
    Promise.ENDED: (
        read_rules.good_after_end,
        read_rules.old_passwords,
        read_rules.used_after_deletion,
    ),
    Promise.NOTIFIED: (read_rules.missed_ends,),
    Promise.STALE: (read_rules.stale_reads,),
    Promise.ALONE: (write_rules.shared_addresses,),
    Promise.WHOLE: (write_rules.halves,),
    Promise.REASONED: (read_rules.unreasoned, status_rules.disturbed),
    Promise.STATUS: (status_rules.invented,),
    Promise.SILENT: (status_rules.leaks,),
    Promise.RETRY: (status_rules.without_retry,),
    Promise.PROMPT: (waiting_rules.hung,),
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
