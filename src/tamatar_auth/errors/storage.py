"""The failures that the database causes."""

from tamatar_auth.errors import Failure


class TransactionConflict(Failure):
    """The transaction conflicted with others and changed nothing."""

    code = "ABORTED"
    reason = "TRANSACTION_CONFLICT"
    message = "The change conflicted with another one. Try again."
    retry_after = 0.1
    retry_jitter = 1.0


class ConstraintViolated(Failure):
    """The change violates a constraint of the database."""

    code = "FAILED_PRECONDITION"
    reason = "CONSTRAINT_VIOLATED"
    message = "The change breaks a rule of the stored data."


class StoredAlready(ConstraintViolated):
    """A stored row has a value that only one row may have."""

    code = "ALREADY_EXISTS"


class ValueRefused(Failure):
    """PostgreSQL refused a value that the rules of the fields allow."""

    code = "INVALID_ARGUMENT"
    reason = "VALUE_REFUSED"
    message = "A value of the request cannot be stored."


class StorageUnavailable(Failure):
    """The database cannot be used at the moment."""

    code = "UNAVAILABLE"
    reason = "STORAGE_UNAVAILABLE"
    message = "The database is not available. Try again."
    retry_after = 1.0
    retry_jitter = 1.0


class PrimaryNotConfirmed(Failure):
    """The synchronous standbys have acknowledged no commit of the server lately."""

    code = "UNAVAILABLE"
    reason = "PRIMARY_NOT_CONFIRMED"
    message = "Another database server may have taken over. Try again."
    retry_after = 0.1
    retry_jitter = 1.0


class StorageTimedOut(Failure):
    """The deadline of the call passed: the caller's, or else that of the service."""

    code = "DEADLINE_EXCEEDED"
    reason = "STORAGE_TIMED_OUT"
    message = "The call exceeded its deadline."


class QueryStatisticsMissing(Failure):
    """The database lacks the extension pg_stat_statements."""

    code = "FAILED_PRECONDITION"
    reason = "QUERY_STATISTICS_MISSING"
    message = (
        "Statistics of queries are missing: add pg_stat_statements to "
        "shared_preload_libraries, restart PostgreSQL and run "
        "CREATE EXTENSION pg_stat_statements in this database."
    )
