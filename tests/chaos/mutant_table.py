"""Which broken promise shows each sabotage, and which faults it takes."""

from dataclasses import dataclass

from tests.chaos.rules import Promise
from tests.chaos.run import Plan, Result


@dataclass(frozen=True)
class Bite:
    """A sabotage that the harness must find."""

    sabotage: str
    promises: frozenset[Promise]
    faults: tuple[str, ...] = ()

    def plan(self, seed: int) -> Plan:
        """Say how it is looked for."""
        return Plan(seed, SECONDS, faults=self.faults, servers=1, sabotage=self.sabotage)

    def is_found_in(self, result: Result) -> bool:
        """Tell whether a run shows it."""
        return any(violation.promise in self.promises for violation in result.violations)


SECONDS = 4.0
ATTEMPTS = 3
"""How many runs a sabotage has to show itself, as some need luck."""


def _bite(sabotage: str, *promises: Promise, faults: tuple[str, ...] = ()) -> Bite:
    return Bite(sabotage, frozenset(promises), faults)


BITES = (
    _bite("forgets_commits", Promise.KEPT),
    _bite("answers_before_the_commit", Promise.ENDED, Promise.STALE),
    _bite("revokes_after_the_answer", Promise.ENDED),
    _bite(
        "runs_lost_commits_again",
        Promise.NOTHING_ELSE,
        faults=("answers lost",),
    ),
    _bite("validates_from_a_cache", Promise.ENDED),
    _bite("goes_on_after_a_gap", Promise.TOLD, faults=("connections cut",)),
    _bite("joins_statements_that_run", Promise.ENDED),
    _bite("keeps_sessions_of_changed_passwords", Promise.KEPT, Promise.ENDED),
    _bite("keeps_sessions_of_deleted_users", Promise.WHOLE),
    _bite("revives_sessions", Promise.KEPT, Promise.ENDED),
    _bite("forgets_request_ids", Promise.REASONED, faults=("answers lost",)),
    _bite("looks_before_it_adds", Promise.ALONE),
    _bite("loses_updates", Promise.KEPT),
    _bite("creates_by_halves", Promise.WHOLE, faults=("connections cut",)),
    _bite("lends_dead_connections", Promise.REASONED, faults=("connections cut at rest",)),
    _bite("does_not_wait_for_the_disk", Promise.KEPT, faults=("database killed",)),
    _bite("lets_exceptions_out", Promise.STATUS),
    _bite("tells_texts_of_exceptions", Promise.SILENT, faults=("users locked",)),
    _bite("tells_no_time_to_retry", Promise.RETRY, faults=("database restarted",)),
    _bite("looks_at_its_database_once", Promise.HEALED, faults=("database restarted",)),
)
