"""The failures that end a call with a status.

    Failure
    ├── InvalidFields, MalformedRequest, InvalidPageToken     the request is wrong
    ├── CallerUnknown, CallerNotAllowed                       the service that calls
    ├── ServerBusy, ServiceStopping, StreamInterrupted,
    │   InternalFault                                         this service
    │
    │   errors/users.py
    ├── UserNotFound, EmailTaken, UsernameTaken,
    │   UserNotDeleted, EtagMismatch, RequestIdReused,
    │   UserIdTaken, ImportedDifferently                      users
    ├── InvalidCredentials, EmailNotVerified, TooManyAttempts,
    │   UserTokenInvalid                                      their credentials
    │
    │   errors/sessions.py
    ├── SessionUnknown, SessionExpired, SessionIdle,
    │   SessionRevoked, SessionReused, UserInactive,
    │   SessionNotFound, StepUpRequired                       sessions
    │
    │   errors/factors.py
    ├── FactorNotFound, InvalidProof, FactorsNotConfigured,
    │   TooManyFactors, PasskeyTaken                          second factors
    │
    │   errors/storage.py
    └── TransactionConflict, ConstraintViolated (StoredAlready),
        ValueRefused, StorageUnavailable, StorageTimedOut,
        PrimaryNotConfirmed, QueryStatisticsMissing           the database

A failure is a fact with a name. Its code, reason and message are constants, because a
value that a caller sent must never reach a status. The code is the name of a gRPC status,
and the reason is the name of an `ErrorReason`; each reason has one class, and
CONSTRAINT_VIOLATED has a subclass with another code. This package knows neither gRPC nor
protobuf: `interceptors.errors` maps the names. Only `metadata`, `violations` and
`retry_after` vary.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar, NamedTuple

NO_METADATA: Mapping[str, str] = MappingProxyType({})


class FieldViolation(NamedTuple):
    """A field of the request, as a path such as `profile.bio`, and the rule it breaks."""

    field: str
    description: str


class Failure(Exception):  # noqa: N818 - a failure is not an error of this program
    """The reason why a call fails, as its caller sees it."""

    code: ClassVar[str]
    reason: ClassVar[str]
    message: ClassVar[str]
    retry_after: float | None = None
    """Seconds after which the same call may succeed."""
    retry_jitter: ClassVar[float] = 0.0
    """The largest random share that is added to `retry_after`. Callers that fail at the same
    moment must not retry at the same moment."""

    metadata: Mapping[str, str] = NO_METADATA
    audit_details: Mapping[str, str] = NO_METADATA
    """Facts for the audit trail that no caller sees."""
    violations: Sequence[FieldViolation] = ()

    def __str__(self) -> str:
        return self.message


class InvalidFields(Failure):
    """At least one field breaks a rule."""

    code = "INVALID_ARGUMENT"
    reason = "INVALID_FIELDS"
    message = "The request has invalid fields."

    def __init__(self, *violations: FieldViolation) -> None:
        super().__init__()
        self.violations = violations

    @classmethod
    def field(cls, field: str, description: str) -> "InvalidFields":
        """Return the failure for one field."""
        return cls(FieldViolation(field, description))


class MalformedRequest(Failure):
    """The bytes of the request are not a message of the method's type."""

    code = "INVALID_ARGUMENT"
    reason = "MALFORMED_REQUEST"
    message = "The request cannot be decoded."


class InvalidPageToken(Failure):
    """The page token was not issued by this service, or was issued for another query."""

    code = "INVALID_ARGUMENT"
    reason = "INVALID_PAGE_TOKEN"
    message = "The page token is not valid for this query."
    violations = (FieldViolation("page_token", "must come from the previous page"),)


class CallerUnknown(Failure):
    """The calling service did not prove its identity. No caller sees the cause."""

    code = "UNAUTHENTICATED"
    reason = "CALLER_UNKNOWN"
    message = (
        "The caller is not known. Send its token as `authorization: Bearer TOKEN`, "
        "or connect with its certificate."
    )


class CallerNotAllowed(Failure):
    """The calling service has none of the roles that the method requires."""

    code = "PERMISSION_DENIED"
    reason = "CALLER_NOT_ALLOWED"
    message = "The caller may not call this method."

    def __init__(self, roles: Iterable[str] = ()) -> None:
        super().__init__()
        self.metadata = {"roles": ",".join(sorted(roles))}


class ServerBusy(Failure):
    """The server is at a limit of calls, hashes, streams or connections; the call did nothing."""

    code = "RESOURCE_EXHAUSTED"
    reason = "SERVER_BUSY"
    message = "The server is busy. Try again."
    retry_after = 1.0
    retry_jitter = 0.5

    def __init__(self, retry_after: float = 1.0) -> None:
        super().__init__()
        self.retry_after = retry_after


class ServiceStopping(Failure):
    """This process stops; another one can serve the call."""

    code = "UNAVAILABLE"
    reason = "SERVICE_STOPPING"
    message = "This server is stopping. Connect again."
    retry_after = 0.1
    retry_jitter = 1.0


class StreamInterrupted(Failure):
    """The stream may have lost messages."""

    code = "UNAVAILABLE"
    reason = "STREAM_INTERRUPTED"
    message = "The stream may have lost messages. Open a new one."
    retry_after = 0.1
    retry_jitter = 5.0


class InternalFault(Failure):
    """A fault of this service. Its log has the `error_id`."""

    code = "INTERNAL"
    reason = "INTERNAL_FAULT"
    message = "The service failed. Its log has the error id."

    def __init__(self, error_id: str) -> None:
        super().__init__()
        self.metadata = {"error_id": error_id}
