"""Mutants of the observation of statements: spans, totals and slow statements."""

from tests.mutants.mutant import mutant

_CALLS = "storage/instrumentation/call_record.py"
_CONNECTION = "storage/driver/connection.py"
_LOADER = "storage/session_validation/batch_loader.py"
_QUERIES = "storage/instrumentation/queries.py"

_TEST_QUERIES = "storage/instrumentation/test_queries.py"
_TEST_LOADER = "storage/session_validation/test_batch_loader.py::TestSampledCalls"
_TEST_LINKS = "observability/test_spans.py::test_shared_statement_span_links_to_its_calls"
_TEST_SLOW = "interceptors/test_telemetry.py::TestCalls"

MUTANTS = (
    mutant(
        "commit_is_in_no_span",
        _CONNECTION,
        'with self._observed_end("COMMIT"):',
        "with nullcontext():",
        f"{_TEST_QUERIES}::TestSpans",
    ),
    mutant(
        "slow_commit_is_not_logged",
        _CONNECTION,
        'with self._observed_end("COMMIT"):',
        "with nullcontext():",
        f"{_TEST_QUERIES}::TestLogs",
    ),
    mutant(
        "rollback_is_in_no_span",
        _CONNECTION,
        'with self._observed_end("ROLLBACK"):',
        "with nullcontext():",
        f"{_TEST_QUERIES}::TestSpans",
    ),
    mutant(
        "commit_that_is_not_sent_has_a_span",
        _CONNECTION,
        "is_sent = self.pgconn.transaction_status in IN_TRANSACTION",
        "is_sent = True",
        f"{_TEST_QUERIES}::TestSpans",
    ),
    mutant(
        "shared_statement_links_to_no_call",
        _CALLS,
        "if self.is_shared else ()",
        "if not self.is_shared else ()",
        _TEST_LINKS,
    ),
    mutant(
        "links_of_shared_statement_are_unbounded",
        _CALLS,
        "self.sampled[:MAX_LINKS]",
        "self.sampled",
        _TEST_LOADER,
    ),
    mutant(
        "shared_statement_has_a_trace_of_its_own",
        _CALLS,
        "    if sampled:\n        otel_context",
        "    if not rpc:\n        otel_context",
        _TEST_LINKS,
    ),
    mutant(
        "shared_statement_counts_for_one_call",
        _QUERIES,
        "for sampled in () if call is None else call.sampled:",
        "for sampled in () if call is None else call.sampled[:1]:",
        _TEST_LINKS,
    ),
    mutant(
        "cancelled_sampled_call_is_kept",
        _LOADER,
        "for waiter, call in sampled.items() if waiter in pending}",
        "for waiter, call in sampled.items() if waiter not in pending}",
        _TEST_LOADER,
    ),
    mutant(
        "statement_links_to_calls_of_another_batch",
        _LOADER,
        "for waiter, call in sampled.items() if waiter in batch]",
        "for waiter, call in sampled.items()]",
        _TEST_LOADER,
    ),
    mutant(
        "slow_statement_names_no_method",
        _QUERIES,
        'rpc_field = {} if call is None else {"rpc": call.rpc}',
        "rpc_field = {} if call is None else {}",
        _TEST_SLOW,
    ),
    mutant(
        "statements_of_the_listener_are_not_observed",
        "storage/session_events/listener.py",
        "with connection.observed(_BEGIN_SQL):",
        "with contextlib.nullcontext():",
        "storage/session_events/test_feed.py::TestStreams::"
        "test_statements_of_listener_are_observed",
    ),
    mutant(
        "count_of_expired_rows_names_no_table",
        "storage/repositories/expired_rows.py",
        '" ".join(["SELECT", *tables])',
        '"SELECT"',
        "storage/repositories/test_summaries.py",
    ),
)
