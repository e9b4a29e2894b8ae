"""The mutants, with the promises that they break and the faults that they need."""

from dataclasses import dataclass

from tests.chaos.rules import Promise
from tests.chaos.run import Plan, Result


@dataclass(frozen=True)
class Mutant:
    """A mutant that the harness must find."""

    name: str
    promises: frozenset[Promise]
    faults: tuple[str, ...] = ()

    def plan(self, seed: int) -> Plan:
        """Return the plan of a run that may find it."""
        return Plan(seed, SECONDS, faults=self.faults, servers=1, mutant=self.name)

    def is_found_in(self, result: Result) -> bool:
        """Return whether a run has found it."""
        return any(violation.promise in self.promises for violation in result.violations)


SECONDS = 4.0
ATTEMPTS = 3
"""The number of runs in which a mutant may be found, because some need luck."""


def _mutant(name: str, *promises: Promise, faults: tuple[str, ...] = ()) -> Mutant:
    return Mutant(name, frozenset(promises), faults)


MUTANTS = (
    _mutant("forgets_commits", Promise.KEPT),
    _mutant("answers_before_the_commit", Promise.ENDED, Promise.STALE),
    _mutant("revokes_after_the_answer", Promise.ENDED),
    _mutant(
        "runs_lost_commits_again",
        Promise.NOTHING_ELSE,
        faults=("answers lost",),
    ),
    _mutant("validates_from_a_cache", Promise.ENDED),
    _mutant("goes_on_after_a_gap", Promise.NOTIFIED, faults=("connections cut",)),
    _mutant("joins_statements_that_run", Promise.ENDED),
    _mutant("keeps_sessions_of_changed_passwords", Promise.KEPT, Promise.ENDED),
    _mutant("keeps_sessions_of_deleted_users", Promise.WHOLE),
    _mutant("revives_sessions", Promise.KEPT, Promise.ENDED),
    _mutant("forgets_request_ids", Promise.REASONED, faults=("answers lost",)),
    _mutant("looks_before_it_adds", Promise.ALONE),
    _mutant("loses_updates", Promise.KEPT),
    _mutant("creates_by_halves", Promise.WHOLE, faults=("connections cut",)),
    _mutant("lends_dead_connections", Promise.REASONED, faults=("connections cut at rest",)),
    _mutant("does_not_wait_for_the_disk", Promise.KEPT, faults=("database killed",)),
    _mutant("lets_exceptions_out", Promise.STATUS),
    _mutant("reveals_texts_of_exceptions", Promise.SILENT, faults=("users locked",)),
    _mutant("omits_retry_delay", Promise.RETRY, faults=("database restarted",)),
    _mutant(
        "registers_one_reader_for_an_answer",
        Promise.PROMPT,
        faults=("connections reset",),
    ),
    _mutant("looks_at_its_database_once", Promise.HEALED, faults=("database restarted",)),
)
