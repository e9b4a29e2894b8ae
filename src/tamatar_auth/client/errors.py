"""What a call raises when it is refused or fails.

    AuthError
    ├── InvalidRequestError    INVALID_ARGUMENT; `fields` has the broken ones
    ├── NotFoundError          NOT_FOUND
    ├── AlreadyExistsError     ALREADY_EXISTS: an address or a name is taken
    ├── PreconditionError      FAILED_PRECONDITION: such as an address that is not verified
    ├── ConflictError          ABORTED: somebody else changed it, too
    ├── CredentialsError       a password or a one-time secret is wrong
    ├── SessionError           a session is not good, or not good any more
    ├── CallerError            this service is not known, or may not call the method
    ├── BusyError              RESOURCE_EXHAUSTED: `retry_after` says when to try again
    └── UnavailableError       UNAVAILABLE, DEADLINE_EXCEEDED: no answer could be had

Each is a `grpc.aio.AioRpcError`, hence a `grpc.RpcError`, whichever kind of channel it comes
from: what handles those goes on to work.
"""

import contextlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata

from tamatar.auth.v1.error_reason_pb2 import ErrorReason

ERROR_DOMAIN = "auth.tamatar.dev"
DETAILS_KEY = "grpc-status-details-bin"


class AuthError(AioRpcError):
    """A call was refused, or failed.

    >>> try:
    ...     auth.sessions.ValidateSession(request)
    ... except SessionError as error:
    ...     error.reason == ErrorReason.SESSION_REVOKED
    """

    reason: ErrorReason.ValueType
    """Why, as the service says; `ERROR_REASON_UNSPECIFIED` where it could not be asked, and for
    reasons that are newer than this client."""
    reason_name: str
    """The reason's name, such as `EMAIL_TAKEN`, also of newer ones; empty where there is none."""
    fields: Mapping[str, Sequence[str]]
    """The fields that break a rule, as paths such as `profile.bio`, and the rules."""
    metadata: Mapping[str, str]
    """What varies from case to case, as `ErrorReason` explains."""
    retry_after: float | None
    """Seconds after which the same call may well succeed; None where waiting does not help."""

    def __init__(
        self,
        code: StatusCode,
        initial_metadata: Metadata,
        trailing_metadata: Metadata,
        details: str | None = None,
        debug_error_string: str | None = None,
    ) -> None:
        super().__init__(code, initial_metadata, trailing_metadata, details, debug_error_string)
        info, request, retry = _read_details(trailing_metadata)
        self.reason_name = info.reason if info.domain == ERROR_DOMAIN else ""
        known = self.reason_name in ErrorReason.keys()  # noqa: SIM118 - no mapping
        self.reason = (
            ErrorReason.Value(self.reason_name) if known else ErrorReason.Value(_UNSPECIFIED)
        )
        self.metadata = MappingProxyType(dict(info.metadata))
        fields: dict[str, list[str]] = {}
        for violation in request.field_violations:
            fields.setdefault(violation.field, []).append(violation.description)
        self.fields = MappingProxyType(fields)
        has_delay = retry.HasField("retry_delay")
        self.retry_after = retry.retry_delay.ToTimedelta().total_seconds() if has_delay else None

    @property
    def status(self) -> StatusCode:
        """The status of the call."""
        return self.code()

    def __str__(self) -> str:
        name = f" {self.reason_name}" if self.reason_name else ""
        return f"{self.status.name}{name}: {self.details() or 'no answer'}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"


class InvalidRequestError(AuthError):
    """The request breaks a rule."""


class NotFoundError(AuthError):
    """There is no such user or session."""


class AlreadyExistsError(AuthError):
    """An address or a name belongs to another user."""


class PreconditionError(AuthError):
    """The state of the user or of the service does not allow it."""


class ConflictError(AuthError):
    """Another change got in the way."""


class CredentialsError(AuthError):
    """A password or a one-time secret is wrong."""


class SessionError(AuthError):
    """A session is not good, or not good any more."""


class CallerError(AuthError):
    """The service does not know who calls, or does not let it call this."""


class BusyError(AuthError):
    """Too much was asked for at once, or tried too often."""


class UnavailableError(AuthError):
    """No answer could be had in time."""


_UNSPECIFIED = "ERROR_REASON_UNSPECIFIED"
_BY_REASON = {
    "INVALID_CREDENTIALS": CredentialsError,
    "USER_TOKEN_INVALID": CredentialsError,
    "SESSION_UNKNOWN": SessionError,
    "SESSION_EXPIRED": SessionError,
    "SESSION_IDLE": SessionError,
    "SESSION_REVOKED": SessionError,
    "SESSION_REUSED": SessionError,
    "USER_INACTIVE": SessionError,
    "CALLER_UNKNOWN": CallerError,
    "CALLER_NOT_ALLOWED": CallerError,
}
_BY_CODE = {
    StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    StatusCode.NOT_FOUND: NotFoundError,
    StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    StatusCode.FAILED_PRECONDITION: PreconditionError,
    StatusCode.ABORTED: ConflictError,
    StatusCode.RESOURCE_EXHAUSTED: BusyError,
    StatusCode.UNAVAILABLE: UnavailableError,
    StatusCode.DEADLINE_EXCEEDED: UnavailableError,
}


class _CallError(Protocol):
    """What every error of a call can tell, of either kind of channel."""

    def code(self) -> StatusCode: ...

    def details(self) -> str | None: ...

    def initial_metadata(self) -> Any: ...

    def trailing_metadata(self) -> Any: ...

    def debug_error_string(self) -> str | None: ...


def auth_error(error: grpc.RpcError) -> grpc.RpcError:
    """Return what a call raises in place of the given error of gRPC."""
    if isinstance(error, AuthError) or not hasattr(error, "trailing_metadata"):
        return error
    call_error = cast("_CallError", error)
    trailing = _metadata(call_error.trailing_metadata())
    info, _, _ = _read_details(trailing)
    kind = _BY_REASON.get(info.reason) or _BY_CODE.get(call_error.code(), AuthError)
    # For a blocking call that this side has cancelled gRPC would wait for ever for these two.
    is_complete = isinstance(error, AioRpcError) or call_error.code() is not StatusCode.CANCELLED
    return kind(
        call_error.code(),
        _metadata(call_error.initial_metadata() if is_complete else ()),
        trailing,
        call_error.details(),
        call_error.debug_error_string() if is_complete else None,
    )


def loggable(error: Exception) -> str:
    """Write an error for the log: what others raise may say anything, also a secret."""
    return str(error) if isinstance(error, (AuthError, OSError)) else type(error).__name__


def _metadata(pairs: Any) -> Metadata:
    return Metadata(*((each[0], each[1]) for each in pairs or ()))


def _read_details(trailing: Metadata) -> tuple[Any, Any, Any]:
    """Read the details of a status: ErrorInfo, BadRequest and RetryInfo, empty if not there."""
    details = info, request, retry = ErrorInfo(), BadRequest(), RetryInfo()
    packed = trailing.get(DETAILS_KEY) or b""
    with contextlib.suppress(DecodeError):  # what somebody in between made of them
        status = Status.FromString(packed if isinstance(packed, bytes) else packed.encode())
        for detail in status.details:
            for known in details:
                detail.Unpack(known)
    return info, request, retry
