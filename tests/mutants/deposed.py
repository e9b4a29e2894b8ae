"""Mutants of the fence against a deposed primary."""

from tests.mutants.mutant import mutant

_ACKNOWLEDGEMENT = "storage/acknowledgement.py"
_HEARTBEAT = "storage/primary_heartbeat.py"
_TEST = "chaos/test_deposed_primary.py"

MUTANTS = (
    mutant(
        "heartbeat_is_not_checked_by_validation",
        "storage/session_validation/validator.py",
        "if not found.pop(None)[IS_CONFIRMED]:",
        "if not found.pop(None):",
        f"{_TEST}::test_statement_refuses_deposed_primary_without_check",
    ),
    mutant(
        "heartbeat_is_not_checked_by_monitor",
        "server/primary_check.py",
        "if confirmed is False:",
        "if confirmed is None:",
        f"{_TEST}::test_idle_service_leaves_deposed_primary",
    ),
    mutant(
        "heartbeat_is_not_checked_by_listener",
        "storage/session_events/listener.py",
        "if not row.is_confirmed:",
        "if row.is_confirmed is None:",
        f"{_TEST}::test_stream_of_unchecked_service_ends",
    ),
    mutant(
        "heartbeat_waits_for_no_standby",
        _HEARTBEAT,
        "[WAIT_FOR_STANDBYS, self._lock_limit]",
        "[WAIT_FOR_NOTHING, self._lock_limit]",
        f"{_TEST}::test_deposed_primary_validates_no_revoked_session",
    ),
    mutant(
        "heartbeat_of_a_frozen_process_stays_locked",
        _HEARTBEAT,
        "'idle_in_transaction_session_timeout', %s, true),",
        "'application_name', %s, true),",
        "storage/test_primary_heartbeat.py",
    ),
    mutant(
        "heartbeat_counts_before_its_acknowledgement",
        _HEARTBEAT,
        "SET sent_at = now()\n",
        "SET sent_at = now(), acknowledged_at = now()\n",
        f"{_TEST}::test_crash_of_deposed_primary_confirms_nothing",
    ),
    mutant(
        "heartbeat_of_the_future_counts",
        _ACKNOWLEDGEMENT,
        "AND now() + {seconds}",
        "AND 'infinity'",
        "storage/test_acknowledgement.py",
    ),
    mutant(
        "writes_go_to_a_primary_that_is_not_confirmed",
        "storage/database.py",
        "self._orphaned.fence.require_open()",
        "pass",
        f"{_TEST}::test_statement_refuses_deposed_primary_without_check",
    ),
    mutant(
        "deposed_primary_is_tried_first_again",
        "storage/driver/primary_hosts.py",
        "key=timelines.__getitem__",
        "key=lambda place: -place",
        f"{_TEST}::test_restarted_service_finds_new_primary",
    ),
)
