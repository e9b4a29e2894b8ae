"""Mutants of scopes, commits in doubt, and the feed of ended sessions."""

from tests.mutants.mutant import mutant

_DATABASE = "storage/database.py"
_DRIVER = "storage/driver"
_FEED = "storage/session_events"

_TEST_DATABASE = "storage/test_database.py"
_TEST_CONNECTION = "storage/driver/test_connection.py"
_TEST_APP = "server/test_app.py::TestDatabase"
_TEST_MONITOR = "server/test_database_monitor.py::TestReadOnly"
_TEST_FEED = "storage/session_events/test_feed.py"

MUTANTS = (
    mutant(
        "snapshot_reads_several_moments",
        _DATABASE,
        'isolation_level="REPEATABLE READ"',
        'isolation_level="READ COMMITTED"',
        f"{_TEST_DATABASE}::TestScopes",
    ),
    mutant(
        "transactions_begin_while_commits_are_in_doubt",
        _DATABASE,
        "if self._orphaned.in_doubt >= self.pool.size:",
        "if self._orphaned.in_doubt > 2 * self.pool.size:",
        f"{_TEST_CONNECTION}",
    ),
    mutant(
        "database_that_is_away_is_called_a_busy_pool",
        _DATABASE,
        "if is_connecting.get() or not is_pool_in_use:",
        "if is_connecting.get():",
        "server/test_busy_pool.py::test_crowd_finds_database_unavailable_if_none_can_connect",
    ),
    mutant(
        "cancelled_commit_is_cancelled",
        f"{_DRIVER}/connection.py",
        "        if self._is_commit:\n            self.orphaned.finish_commit(self, gen)\n",
        "        if not gen:\n            self.orphaned.finish_commit(self, gen)\n",
        _TEST_CONNECTION,
    ),
    mutant(
        "cancelled_statement_of_its_own_is_cancelled",
        f"{_DRIVER}/connection.py",
        "return self._is_committing or self.each_statement_commits",
        "return self._is_committing",
        _TEST_CONNECTION,
    ),
    mutant(
        "unconfirmed_commit_is_a_success",
        f"{_DRIVER}/connection.py",
        'if notice.source_function == "SyncRepWaitForLSN":',
        'if notice.source_function == "another":',
        "chaos/test_standby_away.py",
    ),
    mutant(
        "dead_connection_is_lent",
        "storage/engine.py",
        "    if is_dead(connection.driver_connection):\n",
        "    if not connection:\n",
        f"{_TEST_DATABASE}::TestPool",
    ),
    mutant(
        "read_only_server_keeps_the_pool",
        "storage/engine.py",
        "        failure.is_disconnect = True",
        "        failure.is_disconnect = False",
        "storage/test_read_only.py",
    ),
    mutant(
        "lost_listener_goes_unnoticed",
        f"{_FEED}/feed.py",
        "            subscriber.interrupt(StreamEndCause.LOST)\n\n\ndef",
        "            subscriber.notify\n\n\ndef",
        f"{_TEST_FEED}::TestListener",
    ),
    mutant(
        "end_of_unknown_sessions_is_ignored",
        f"{_FEED}/listener.py",
        "if len(users) > MAX_NEW_ENDS or None in users:",
        "if len(users) > MAX_NEW_ENDS:",
        f"{_TEST_FEED}::TestEnds",
    ),
    mutant(
        "end_of_a_late_commit_is_missed",
        f"{_FEED}/listener.py",
        "WHERE xid = ANY (ARRAY(SELECT pg_snapshot_xip(former)))",
        "WHERE false",
        f"{_TEST_FEED}::TestEnds::test_end_that_commits_late_reaches_watch",
    ),
    mutant(
        "feed_goes_on_after_a_gap",
        f"{_FEED}/listener.py",
        "row.place != self._place or row.has_gap",
        "row.place != self._place",
        f"{_TEST_FEED}::TestRemoval::test_late_reader_whose_rows_were_removed_interrupts",
    ),
    mutant(
        "feed_goes_on_with_another_server",
        f"{_FEED}/listener.py",
        "row.place != self._place or row.has_gap",
        "row.has_gap",
        f"{_TEST_FEED}::TestRemoval::test_table_emptied_by_crash_or_failover_interrupts",
    ),
    mutant(
        "watch_begins_before_its_listener",
        f"{_FEED}/feed.py",
        "        if subscriber not in self.subscribers:\n            raise StorageUnavailable\n",
        "",
        _TEST_FEED,
    ),
    mutant(
        "tables_of_an_older_release_are_served",
        "storage/readiness.py",
        "if state.revision < head:",
        "if state.revision > head:",
        f"{_TEST_APP}::test_database_without_tables_is_not_served",
    ),
    mutant(
        "read_only_database_serves_users",
        "server/database_monitor.py",
        "writes=found.problem is None",
        "writes=found.reads",
        f"{_TEST_MONITOR}::test_read_only_database_serves_sessions_but_no_users",
    ),
    mutant(
        "health_is_serving_from_its_birth",
        "servicers/health.py",
        "dict.fromkeys(self._services, NOT_SERVING)",
        "dict.fromkeys(self._services, SERVING)",
        "servicers/test_diagnostics.py::test_health_before_first_check_is_not_serving",
    ),
)
