"""Failures for the errors of PostgreSQL, by constraint and by SQLSTATE.

The codes: https://www.postgresql.org/docs/current/errcodes-appendix.html. This
module never reads texts: they differ by version and language, and they contain values.
"""

import psycopg
from sqlalchemy import exc

from tamatar_auth.errors import Failure
from tamatar_auth.errors.factors import FactorNotFound, PasskeyTaken
from tamatar_auth.errors.storage import (
    ConstraintViolated,
    StorageTimedOut,
    StorageUnavailable,
    StoredAlready,
    TransactionConflict,
    ValueRefused,
)
from tamatar_auth.errors.users import EmailTaken, InvalidCredentials, UsernameTaken, UserNotFound

CONSTRAINTS: dict[str, type[Failure]] = {
    "uq_users_email_live": EmailTaken,
    "uq_users_username_live": UsernameTaken,
    # Calls with one request id wait for each other, so only a call without the lock meets it.
    "uq_users_request_id": TransactionConflict,
    "fk_user_profiles_user_id_users": UserNotFound,
    "fk_user_tokens_user_id_users": UserNotFound,
    "fk_password_attempts_user_id_users": InvalidCredentials,
    "fk_factors_user_id_users": UserNotFound,
    "fk_challenges_user_id_users": UserNotFound,
    "fk_recovery_codes_factor_id_factors": FactorNotFound,
    "uq_factors_credential_id": PasskeyTaken,
    # Two calls at the same time: the second one replaces the row of the first.
    "uq_factors_recovery_codes": TransactionConflict,
    "uq_factors_unconfirmed": TransactionConflict,
}

SQLSTATES: dict[str, type[Failure]] = {
    "23502": ValueRefused,  # not_null_violation
    "23514": ValueRefused,  # check_violation
    # Violations of constraints that are not listed above:
    "23000": ConstraintViolated,  # integrity_constraint_violation
    "23001": ConstraintViolated,  # restrict_violation
    "23503": ConstraintViolated,  # foreign_key_violation
    "23505": StoredAlready,  # unique_violation
    "23P01": StoredAlready,  # exclusion_violation
    "40001": TransactionConflict,  # serialization_failure
    "40P01": TransactionConflict,  # deadlock_detected
    "55P03": TransactionConflict,  # lock_not_available
    "57014": StorageUnavailable,  # query_canceled by an operator; see StatementTimedOutError
    "25006": StorageUnavailable,  # read_only_sql_transaction: a standby, or a demoted primary
    "25P03": StorageUnavailable,  # idle_in_transaction_session_timeout
    "25P04": StorageTimedOut,  # transaction_timeout
    "57P01": StorageUnavailable,  # admin_shutdown
    "57P02": StorageUnavailable,  # crash_shutdown
    "57P03": StorageUnavailable,  # cannot_connect_now
    "57P04": StorageUnavailable,  # database_dropped
    "57P05": StorageUnavailable,  # idle_session_timeout
}

SQLSTATE_CLASSES: dict[str, type[Failure]] = {
    "08": StorageUnavailable,  # connection exception
    "22": ValueRefused,  # data exception
    "53": StorageUnavailable,  # insufficient resources
}

UNDEFINED_TABLE = "42P01"
"""The table does not exist."""

READ_ONLY = "25006"
"""The server rejects writes: it is a standby, or a primary in read-only mode."""

ROLLED_BACK = frozenset({"40001", "40P01"})
"""The transactions conflicted with others, and were rolled back for certain."""

STALE_STATEMENTS = frozenset({"26000", "42P05"})
"""A prepared statement does not exist, or exists already: a pooler has switched the server."""

_PLAN_CHECK = "RevalidateCachedQuery"
"""The function of PostgreSQL that finds that the columns of a prepared statement have changed.
Its SQLSTATE is that of any feature that is not supported."""

_PARTITION_SEARCH = "ExecFindPartition"
"""The function of PostgreSQL that finds that no partition takes a row. Its SQLSTATE is that of a
violated check."""

CANCELLED_WAITS = frozenset({"55P03", "57014"})
"""A wait ended early: by a timeout, by the deadline of the call or by an operator."""


class StatementTimedOutError(psycopg.errors.QueryCanceled):
    """A statement ran as long as `statement_timeout` allows."""


def sqlstate(error: BaseException | None) -> str | None:
    """Return the SQLSTATE of an error, or None if PostgreSQL did not send it."""
    return getattr(_cause(error), "sqlstate", None)


def constraint(error: BaseException) -> str | None:
    """Return the name of the violated constraint, or None."""
    cause = _cause(error)
    return cause.diag.constraint_name if isinstance(cause, psycopg.Error) else None


def was_rolled_back(error: BaseException) -> bool:
    """Return whether the error ended a transaction that can run again, because it did nothing."""
    cause = _cause(error)
    return sqlstate(cause) in ROLLED_BACK or is_stale_statement(cause)


def is_stale_statement(error: BaseException | None) -> bool:
    """Return whether a prepared statement did not run, because PostgreSQL has no valid plan."""
    if not isinstance(error, psycopg.Error):
        return False
    if error.sqlstate == "0A000":
        return error.diag.source_function == _PLAN_CHECK
    return error.sqlstate in STALE_STATEMENTS


def is_partition_missing(error: BaseException) -> bool:
    """Return whether no partition takes a row."""
    cause = _cause(error)
    return isinstance(cause, psycopg.Error) and cause.diag.source_function == _PARTITION_SEARCH


def to_failure(error: BaseException) -> Failure | None:
    """Return the failure for an error of the storage, or None for a fault of this program."""
    if isinstance(error, ConnectionError):
        return StorageUnavailable()  # a socket broke
    cause = _cause(error)
    if not isinstance(cause, psycopg.Error):
        return None
    known = _failure_class(cause)
    return known() if known else None


def _cause(error: BaseException | None) -> BaseException | None:
    return error.orig if isinstance(error, exc.DBAPIError) else error


def _failure_class(error: psycopg.Error) -> type[Failure] | None:
    state = error.sqlstate
    if state is None:
        # libpq sets only the class if no server sent a code. Refused and broken connections are
        # OperationalErrors. A value that cannot be sent, such as a NUL in a text, is a DataError.
        # Anything else is a mistake in this program.
        if isinstance(error, psycopg.OperationalError):
            return StorageUnavailable
        return ValueRefused if isinstance(error, psycopg.DataError) else None
    violated = error.diag.constraint_name
    if violated in CONSTRAINTS and state[:2] == "23":
        return CONSTRAINTS[violated]
    return _special_class(error) or SQLSTATES.get(state) or SQLSTATE_CLASSES.get(state[:2])


def _special_class(error: psycopg.Error) -> type[Failure] | None:
    """Return the failure of an error whose SQLSTATE has several meanings."""
    if isinstance(error, StatementTimedOutError):
        return StorageTimedOut
    if is_stale_statement(error):
        return TransactionConflict
    return StorageUnavailable if is_partition_missing(error) else None
