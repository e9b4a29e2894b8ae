"""The failures that the database causes, whatever was asked for."""

from tamatar_auth.errors import Failure


class TransactionConflict(Failure):
    """Other transactions got in the way; nothing was changed."""

    code = "ABORTED"
    reason = "TRANSACTION_CONFLICT"
    message = "Another change got in the way: try again."
    retry_after = 0.1
    retry_jitter = 1.0


class ConstraintViolated(Failure):
    """The change would break a rule of the stored data."""

    code = "FAILED_PRECONDITION"
    reason = "CONSTRAINT_VIOLATED"
    message = "The change would break a rule of the stored data."


class ValueRefused(Failure):
    """PostgreSQL refused a value that the rules of the fields let through."""

    code = "INVALID_ARGUMENT"
    reason = "VALUE_REFUSED"
    message = "A value of the request cannot be stored."


class StorageUnavailable(Failure):
    """The database cannot be used at the moment."""

    code = "UNAVAILABLE"
    reason = "STORAGE_UNAVAILABLE"
    message = "The database is not available: try again."
    retry_after = 1.0
    retry_jitter = 1.0


class StorageTimedOut(Failure):
    """The deadline of the call passed, or ours for a call that has none."""

    code = "DEADLINE_EXCEEDED"
    reason = "STORAGE_TIMED_OUT"
    message = "The call took longer than it may."


class QueryStatisticsMissing(Failure):
    """The database lacks the extension pg_stat_statements."""

    code = "FAILED_PRECONDITION"
    reason = "QUERY_STATISTICS_MISSING"
    message = (
        "Statistics of queries are missing: add pg_stat_statements to "
        "shared_preload_libraries, restart PostgreSQL and run "
        "CREATE EXTENSION pg_stat_statements in this database."
    )
