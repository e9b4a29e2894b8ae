"""Mutants of what surrounds a call: its fields, pages, deadlines, limits and failures."""

from tests.mutants.mutant import mutant

_ERRORS = "interceptors/errors.py"
_STATES = "storage/sqlstates.py"
_PAGES = "servicers/page_tokens.py"

_TEST_ERRORS = "interceptors/test_errors.py"
_TEST_STATES = "storage/test_sqlstates.py"
_TEST_PAGES = "servicers/test_page_tokens.py"
_DEADLINES = "interceptors/test_deadlines.py"

MUTANTS = (
    mutant(
        "sudden_growth_of_memory_is_ignored",
        "server/connections.py",
        "if size > calm + SUDDEN_GROWTH or",
        "if",
        "chaos/test_connection_limits.py",
    ),
    mutant(
        "page_token_is_of_any_query",
        _PAGES,
        "query.digest() + position",
        "position",
        _TEST_PAGES,
    ),
    mutant(
        "page_token_is_not_verified",
        _PAGES,
        "        if not hmac.compare_digest(signature, self._sign(query, position)):",
        "        if len(signature) != _SIGNATURE_BYTES:",
        _TEST_PAGES,
    ),
    mutant(
        "page_token_of_sessions_is_of_any_user",
        "servicers/sessions.py",
        "pb.ListSessionsRequest(user_id=str(user_id), include_ended=",
        "pb.ListSessionsRequest(include_ended=",
        "servicers/test_sessions.py::TestSessions",
    ),
    mutant(
        "page_has_any_size",
        _PAGES,
        "min(requested or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)",
        "requested or DEFAULT_PAGE_SIZE",
        _TEST_PAGES,
    ),
    mutant(
        "page_begins_with_the_last_row",
        "storage/repositories/__init__.py",
        "return row < place if descending else row > place",
        "return row <= place if descending else row >= place",
        "servicers/test_sessions.py::TestSessions",
    ),
    mutant(
        "field_rules_are_not_checked",
        "interceptors/field_validation.py",
        "            if violations:\n",
        "            if violations and not request:\n",
        "servicers/test_field_rules.py::TestFields",
    ),
    mutant(
        "text_of_an_exception_reaches_the_caller",
        _ERRORS,
        "    return InternalFault(error_id)",
        "    return InternalFault(str(error))",
        f"{_TEST_ERRORS}::TestFaults",
    ),
    mutant(
        "refusal_has_no_retry_delay",
        _ERRORS,
        "if failure.retry_after is not None:",
        "if failure.retry_after is not None and not failure.retry_jitter:",
        _TEST_ERRORS,
    ),
    mutant(
        "constraint_of_an_address_is_unknown",
        _STATES,
        '    "uq_users_email_live": EmailTaken,\n',
        "",
        f"{_TEST_STATES}::TestConstraints",
    ),
    mutant(
        "deadlock_is_a_fault",
        _STATES,
        '    "40P01": TransactionConflict,  # deadlock_detected\n',
        "",
        f"{_TEST_STATES}::TestStates",
    ),
    mutant(
        "lost_connection_is_a_fault",
        _STATES,
        "            return StorageUnavailable\n        return ValueRefused",
        "            return None\n        return ValueRefused",
        f"{_TEST_STATES}::TestConnections",
    ),
    mutant(
        "call_whose_commit_is_in_doubt_runs_again",
        _STATES,
        'ROLLED_BACK = frozenset({"40001", "40P01"',
        'ROLLED_BACK = frozenset({"57P01", "40001", "40P01"',
        "interceptors/test_retries.py::test_other_errors_are_not_retried",
    ),
    mutant(
        "rolled_back_call_does_not_run_again",
        "interceptors/retries.py",
        "                    if not was_rolled_back(error):\n",
        "                    if error:\n",
        "interceptors/test_retries.py",
    ),
    mutant(
        "work_in_doubt_runs_again",
        "storage/retry.py",
        "                    if not was_rolled_back(error):\n",
        "                    if not error:\n",
        "storage/test_retry.py",
    ),
    mutant(
        "call_without_a_deadline_never_ends",
        "interceptors/deadlines.py",
        "            call.cancel_after(seconds, StorageTimedOut)\n",
        "",
        f"{_DEADLINES}::TestDeadlines",
    ),
    mutant(
        "calls_in_flight_are_unbounded",
        "interceptors/in_flight.py",
        "if self._bounded_calls >= self.limit:",
        "if self._bounded_calls < 0:",
        f"{_DEADLINES}::TestCallsInFlight",
    ),
    mutant(
        "first_watch_of_a_connection_is_refused",
        "interceptors/stream_limits.py",
        "if self._of_other_services and not self._streams_by_peer[peer]:",
        "if False:",
        "chaos/test_connection_limits.py::test_first_watch_of_a_connection_is_admitted",
    ),
    mutant(
        "streams_of_a_connection_are_unbounded",
        "interceptors/stream_limits.py",
        "return self._streams_by_peer[peer] >= self._limit_per_connection and",
        "return self._streams_by_peer[peer] < 0 and",
        "servicers/test_watch_sessions.py::test_streams_are_limited_in_all_and_per_connection",
    ),
)
