"""Mutants of validations that are read from standbys."""

from tests.mutants.mutant import mutant

_VALIDATION = "storage/session_validation"
_READER = f"{_VALIDATION}/standby_reader.py"
_TESTS = "chaos/test_standby_reads.py"

MUTANTS = (
    mutant(
        "standby_is_read_before_it_has_replayed",
        _READER,
        "(pg_last_wal_replay_lsn() >= CAST(:lsn AS pg_lsn)) IS NOT TRUE",
        "CAST(:lsn AS pg_lsn) IS NULL",
        f"{_TESTS}::TestFreshness::test_session_revoked_after_replay_stopped_is_refused",
    ),
    mutant(
        "standby_of_another_primary_is_read",
        _READER,
        "WHERE term = CAST(:term AS uuid)",
        "WHERE CAST(:term AS uuid) IS NOT NULL",
        f"{_TESTS}::TestRefusedStandbys::test_standby_of_another_primary_is_not_read",
    ),
    mutant(
        "standby_is_read_in_the_snapshot_of_the_comparison",
        _READER,
        "<> 'read committed'",
        "NOT IN ('read committed', 'repeatable read')",
        f"{_TESTS}::TestRefusedStandbys::test_standby_with_one_snapshot_a_transaction_is_not_read",
    ),
    mutant(
        "asynchronous_commits_are_not_awaited",
        f"{_VALIDATION}/primary_position.py",
        "= 'off'",
        "= 'never'",
        f"{_TESTS}::TestFreshness::test_standby_that_replays_gives_no_stale_answer",
    ),
    mutant(
        "clock_of_the_standby_decides",
        f"{_VALIDATION}/statement.py",
        "return _now if isinstance(part, functions.now) else None",
        "return None",
        f"{_VALIDATION}/test_statement.py",
    ),
)
