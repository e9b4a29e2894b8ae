"""The failures that callers are told about.

    Failure
    ├── InvalidFields, MalformedRequest, InvalidPageToken     the request is wrong
    ├── CallerUnknown, CallerNotAllowed                       the service that calls
    ├── UserNotFound, EmailTaken, UsernameTaken,
    │   UserNotDeleted, EtagMismatch, RequestIdReused         users
    ├── InvalidCredentials, EmailNotVerified, TooManyAttempts,
    │   UserTokenInvalid                                      credentials
    ├── SessionUnknown, SessionExpired, SessionIdle,
    │   SessionRevoked, SessionReused, UserInactive,
    │   SessionNotFound                                       sessions
    └── TransactionConflict, ConstraintViolated, ValueRefused,
        StorageUnavailable, StorageTimedOut,
        QueryStatisticsMissing, ServiceStopping, InternalFault  storage and the rest

A failure is a fact with a name. Its code, its reason and its message are constants,
so that no value that a caller sent finds its way into a status. The reasons are those
of the `ErrorReason` enum, one class each; what varies is in `metadata`, `violations`
and `retry_after`.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import ClassVar, NamedTuple

from grpc import StatusCode

from tamatar.auth.v1.error_reason_pb2 import ErrorReason

NO_METADATA: Mapping[str, str] = MappingProxyType({})


class Cause(StrEnum):
    """Why a password was not accepted: what the caller is not told."""

    NO_USER = "no_user"
    INACTIVE_USER = "inactive_user"
    NO_PASSWORD = "no_password"  # noqa: S105 - a cause
    WRONG_PASSWORD = "wrong_password"  # noqa: S105 - a cause
    TOO_MANY_ATTEMPTS = "too_many_attempts"
    CHANGED_MEANWHILE = "changed_meanwhile"
    EMAIL_NOT_VERIFIED = "email_not_verified"


class FieldViolation(NamedTuple):
    """A field of the request, as a path such as `profile.bio`, and the rule it breaks."""

    field: str
    description: str


class Failure(Exception):  # noqa: N818 - a failure is not an error of this program
    """A call cannot be answered as the caller hoped."""

    code: ClassVar[StatusCode]
    reason: ClassVar[ErrorReason.ValueType]
    message: ClassVar[str]
    retry_after: float | None = None
    """Seconds after which the same call may well succeed."""

    metadata: Mapping[str, str] = NO_METADATA
    kept_back: Mapping[str, str] = NO_METADATA
    """What the audit trail is told and the caller is not."""
    violations: Sequence[FieldViolation] = ()

    def __str__(self) -> str:
        return self.message


class InvalidFields(Failure):
    """At least one field breaks a rule."""

    code = StatusCode.INVALID_ARGUMENT
    reason = ErrorReason.INVALID_FIELDS
    message = "The request has invalid fields."

    def __init__(self, *violations: FieldViolation) -> None:
        super().__init__()
        self.violations = violations

    @classmethod
    def field(cls, field: str, description: str) -> "InvalidFields":
        """Name the one field that breaks a rule."""
        return cls(FieldViolation(field, description))


class MalformedRequest(Failure):
    """The bytes of the request are not the message that the method takes."""

    code = StatusCode.INVALID_ARGUMENT
    reason = ErrorReason.MALFORMED_REQUEST
    message = "The request cannot be decoded."


class InvalidPageToken(Failure):
    """The page token is not ours, or was made for another query."""

    code = StatusCode.INVALID_ARGUMENT
    reason = ErrorReason.INVALID_PAGE_TOKEN
    message = "The page token is not valid for this query."
    violations = (FieldViolation("page_token", "must come from the page before"),)


class CallerUnknown(Failure):
    """The service that calls did not prove who it is; why is not told."""

    code = StatusCode.UNAUTHENTICATED
    reason = ErrorReason.CALLER_UNKNOWN
    message = "The caller is not known."


class CallerNotAllowed(Failure):
    """The service that calls has none of the roles that may call this method."""

    code = StatusCode.PERMISSION_DENIED
    reason = ErrorReason.CALLER_NOT_ALLOWED
    message = "The caller may not call this method."

    def __init__(self, roles: Iterable[str] = ()) -> None:
        super().__init__()
        self.metadata = {"roles": ",".join(sorted(roles))}


class UserNotFound(Failure):
    """There is no such user, or it is deleted."""

    code = StatusCode.NOT_FOUND
    reason = ErrorReason.USER_NOT_FOUND
    message = "There is no such user."


class EmailTaken(Failure):
    """The address belongs to another live user."""

    code = StatusCode.ALREADY_EXISTS
    reason = ErrorReason.EMAIL_TAKEN
    message = "The email address is already registered."


class UsernameTaken(Failure):
    """The username belongs to another live user."""

    code = StatusCode.ALREADY_EXISTS
    reason = ErrorReason.USERNAME_TAKEN
    message = "The username is already registered."


class UserNotDeleted(Failure):
    """Only a deleted user can be restored."""

    code = StatusCode.FAILED_PRECONDITION
    reason = ErrorReason.USER_NOT_DELETED
    message = "The user is not deleted."


class EtagMismatch(Failure):
    """The user was changed since the caller read it."""

    code = StatusCode.ABORTED
    reason = ErrorReason.ETAG_MISMATCH
    message = "The user was changed meanwhile: read it again."


class RequestIdReused(Failure):
    """The request id was used for a user with other content."""

    code = StatusCode.ALREADY_EXISTS
    reason = ErrorReason.REQUEST_ID_REUSED
    message = "The request id was used for another user."


class InvalidCredentials(Failure):
    """Nobody signs in with these credentials; why is not told."""

    code = StatusCode.UNAUTHENTICATED
    reason = ErrorReason.INVALID_CREDENTIALS
    message = "The credentials are not valid."

    def __init__(self, cause: Cause | None = None, user_id: object = None) -> None:
        super().__init__()
        self.kept_back = _kept_back(cause, user_id)


class EmailNotVerified(Failure):
    """The password is right, the address is not verified."""

    code = StatusCode.FAILED_PRECONDITION
    reason = ErrorReason.EMAIL_NOT_VERIFIED
    message = "The email address is not verified."

    def __init__(self, user_id: object = None) -> None:
        super().__init__()
        self.kept_back = _kept_back(Cause.EMAIL_NOT_VERIFIED, user_id)


class TooManyAttempts(Failure):
    """Too many wrong passwords were tried; `retry_after` seconds from now one is looked at."""

    code = StatusCode.RESOURCE_EXHAUSTED
    reason = ErrorReason.TOO_MANY_ATTEMPTS
    message = "Too many attempts: try again later."
    retry_after = 1.0

    def __init__(self, retry_after: float = 1.0, user_id: object = None) -> None:
        super().__init__()
        self.retry_after = retry_after
        self.kept_back = _kept_back(Cause.TOO_MANY_ATTEMPTS, user_id)


class UserTokenInvalid(Failure):
    """The one-time secret is good for nothing; why is not told."""

    code = StatusCode.UNAUTHENTICATED
    reason = ErrorReason.USER_TOKEN_INVALID
    message = "The secret is not valid."


class SessionUnknown(Failure):
    """No session has this token."""

    code = StatusCode.UNAUTHENTICATED
    reason = ErrorReason.SESSION_UNKNOWN
    message = "The session is not known."


class SessionExpired(Failure):
    """The session's life is over."""

    code = StatusCode.UNAUTHENTICATED
    reason = ErrorReason.SESSION_EXPIRED
    message = "The session has expired."


class SessionRevoked(Failure):
    """The session was revoked."""

    code = StatusCode.UNAUTHENTICATED
    reason = ErrorReason.SESSION_REVOKED
    message = "The session was revoked."


class SessionIdle(Failure):
    """The session was not in use for longer than it may rest."""

    code = StatusCode.UNAUTHENTICATED
    reason = ErrorReason.SESSION_IDLE
    message = "The session was not in use for too long."


class SessionReused(Failure):
    """A session was refreshed with a replaced token, so it was revoked."""

    code = StatusCode.UNAUTHENTICATED
    reason = ErrorReason.SESSION_REUSED
    message = "The session's token was used again after it had been replaced."

    def __init__(self, user_id: object = None, session_id: object = None) -> None:
        super().__init__()
        ids = {"user_id": user_id, "session_id": session_id}
        self.kept_back = {name: str(value) for name, value in ids.items() if value}


class UserInactive(Failure):
    """The session's user is deactivated or deleted."""

    code = StatusCode.UNAUTHENTICATED
    reason = ErrorReason.USER_INACTIVE
    message = "The user is not active."


class SessionNotFound(Failure):
    """There is no such session."""

    code = StatusCode.NOT_FOUND
    reason = ErrorReason.SESSION_NOT_FOUND
    message = "There is no such session."


class TransactionConflict(Failure):
    """Other transactions got in the way; nothing was changed."""

    code = StatusCode.ABORTED
    reason = ErrorReason.TRANSACTION_CONFLICT
    message = "Another change got in the way: try again."
    retry_after = 0.1


class ConstraintViolated(Failure):
    """The change would break a rule of the stored data."""

    code = StatusCode.FAILED_PRECONDITION
    reason = ErrorReason.CONSTRAINT_VIOLATED
    message = "The change would break a rule of the stored data."


class ValueRefused(Failure):
    """PostgreSQL refused a value that the rules of the fields let through."""

    code = StatusCode.INVALID_ARGUMENT
    reason = ErrorReason.VALUE_REFUSED
    message = "A value of the request cannot be stored."


class StorageUnavailable(Failure):
    """The database cannot be used at the moment."""

    code = StatusCode.UNAVAILABLE
    reason = ErrorReason.STORAGE_UNAVAILABLE
    message = "The database is not available: try again."
    retry_after = 1.0


class StorageTimedOut(Failure):
    """The call's deadline passed while the database worked."""

    code = StatusCode.DEADLINE_EXCEEDED
    reason = ErrorReason.STORAGE_TIMED_OUT
    message = "The call took longer than it may."


class QueryStatisticsMissing(Failure):
    """The database lacks the extension pg_stat_statements."""

    code = StatusCode.FAILED_PRECONDITION
    reason = ErrorReason.QUERY_STATISTICS_MISSING
    message = (
        "Statistics of queries are missing: add pg_stat_statements to "
        "shared_preload_libraries, restart PostgreSQL and run "
        "CREATE EXTENSION pg_stat_statements in this database."
    )


class ServiceStopping(Failure):
    """This process ends; another one answers."""

    code = StatusCode.UNAVAILABLE
    reason = ErrorReason.SERVICE_STOPPING
    message = "This server is stopping: connect again."
    retry_after = 0.1


class InternalFault(Failure):
    """A fault of this service; `error_id` is in its log."""

    code = StatusCode.INTERNAL
    reason = ErrorReason.INTERNAL_FAULT
    message = "The service failed: its log has the error id."

    def __init__(self, error_id: str) -> None:
        super().__init__()
        self.metadata = {"error_id": error_id}


def _kept_back(cause: Cause | None, user_id: object) -> Mapping[str, str]:
    told = {"cause": cause, "user_id": user_id}
    return {name: str(value) for name, value in told.items() if value}
