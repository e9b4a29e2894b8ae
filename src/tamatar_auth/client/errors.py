"""The exceptions that a call raises.

    AuthError
    ├── InvalidRequestError    INVALID_ARGUMENT; `fields` has the invalid fields
    ├── NotFoundError          NOT_FOUND
    ├── AlreadyExistsError     ALREADY_EXISTS: an address or a username is taken
    ├── PreconditionError      FAILED_PRECONDITION: such as an address that is not verified
    ├── ConflictError          ABORTED: another change was made at the same time
    ├── CredentialsError       a password, a one-time secret or a proof is wrong
    ├── SessionError           a session is not valid, or no longer valid
    │   └── StepUpRequiredError    it is valid, but the call asks for a stronger or newer proof
    ├── CallerError            the service does not know this caller, or does not allow the call
    ├── BusyError              RESOURCE_EXHAUSTED: try again after `retry_after` seconds
    └── UnavailableError       UNAVAILABLE, DEADLINE_EXCEEDED: the service did not answer

Each is a `grpc.aio.AioRpcError`, and so a `grpc.RpcError`, for blocking channels as well: code
that handles these exceptions continues to work.
"""

import contextlib
from collections.abc import Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata

from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar.auth.v1.session_pb2 import AssuranceLevel
from tamatar_auth.client.connection_hints import connection_hint

ERROR_DOMAIN = "auth.tamatar.dev"
DETAILS_KEY = "grpc-status-details-bin"


class AuthError(AioRpcError):
    """A call failed.

    >>> try:
    ...     auth.sessions.ValidateSession(request)
    ... except SessionError as error:
    ...     error.reason == ErrorReason.SESSION_REVOKED
    """

    reason: ErrorReason.ValueType
    """The reason of the service. `ERROR_REASON_UNSPECIFIED` if the service did not answer, or if
    the reason is newer than this client."""
    reason_name: str
    """The name of the reason, such as `EMAIL_TAKEN`, even if it is newer than this client. Empty
    if there is no reason."""
    fields: Mapping[str, Sequence[str]]
    """The invalid fields, as paths such as `profile.bio`, with the rules that they break."""
    metadata: Mapping[str, str]
    """The details of the reason, as `ErrorReason` documents them."""
    retry_after: float | None
    """Seconds after which the same call may succeed. None if waiting does not help."""

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
        known = self.reason_name in ErrorReason.keys()  # noqa: SIM118 - an enum wrapper is no mapping
        self.reason = ErrorReason.Value(self.reason_name if known else "ERROR_REASON_UNSPECIFIED")
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
    """The request has invalid fields."""


class NotFoundError(AuthError):
    """There is no such user or session."""


class AlreadyExistsError(AuthError):
    """An address or a username belongs to another user."""


class PreconditionError(AuthError):
    """The state of the user or of the service does not allow the call."""


class ConflictError(AuthError):
    """Another change was made at the same time."""


class CredentialsError(AuthError):
    """A password, a one-time secret or the proof of a factor is wrong."""


class SessionError(AuthError):
    """A session is not valid, or no longer valid."""


class StepUpRequiredError(SessionError):
    """A session is valid, but the call asks for a stronger or a more recent authentication.

    Sign the user in no second time: BeginStepUp and CompleteStepUp raise the session.
    """

    @property
    def level(self) -> AssuranceLevel.ValueType:
        """The level that the session lacks. `ASSURANCE_LEVEL_UNSPECIFIED` if it lacks none."""
        name = f"ASSURANCE_LEVEL_{self.metadata.get('assurance_level', 'UNSPECIFIED')}"
        is_known = name in AssuranceLevel.keys()  # noqa: SIM118 - an enum wrapper is no mapping
        return AssuranceLevel.Value(name if is_known else "ASSURANCE_LEVEL_UNSPECIFIED")

    @property
    def max_age(self) -> timedelta | None:
        """The age that the user's last proof exceeds. None if it is recent enough."""
        seconds = self.metadata.get("max_authentication_age")
        return timedelta(seconds=float(seconds)) if seconds else None


class CallerError(AuthError):
    """The service does not know this caller, or does not allow the call."""


class BusyError(AuthError):
    """The service is at a limit, or there were too many attempts."""


class UnavailableError(AuthError):
    """The service did not answer in time."""

    def __str__(self) -> str:
        hint = connection_hint(self.details() or "")
        return f"{super().__str__()} ({hint})" if hint else super().__str__()


_BY_REASON = {
    "INVALID_CREDENTIALS": CredentialsError,
    "USER_TOKEN_INVALID": CredentialsError,
    "INVALID_PROOF": CredentialsError,
    "SESSION_UNKNOWN": SessionError,
    "SESSION_EXPIRED": SessionError,
    "SESSION_IDLE": SessionError,
    "SESSION_REVOKED": SessionError,
    "SESSION_REUSED": SessionError,
    "USER_INACTIVE": SessionError,
    "STEP_UP_REQUIRED": StepUpRequiredError,
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


def auth_error(error: grpc.RpcError) -> grpc.RpcError:
    """Return the `AuthError` to raise in place of an error of gRPC."""
    if isinstance(error, AuthError) or not hasattr(error, "trailing_metadata"):
        return error
    call_error: Any = error  # a call of a blocking channel or of an asyncio one
    trailing = _metadata(call_error.trailing_metadata())
    info, _, _ = _read_details(trailing)
    kind = _BY_REASON.get(info.reason) or _BY_CODE.get(call_error.code(), AuthError)
    # After this side cancelled a blocking call, gRPC would wait for these two forever.
    is_complete = isinstance(error, AioRpcError) or call_error.code() is not StatusCode.CANCELLED
    return kind(
        call_error.code(),
        _metadata(call_error.initial_metadata() if is_complete else ()),
        trailing,
        call_error.details(),
        call_error.debug_error_string() if is_complete else None,
    )


def loggable(error: Exception) -> str:
    """Return an error as text for the log. The text of an unknown error may hold a secret."""
    return str(error) if isinstance(error, (AuthError, OSError)) else type(error).__name__


def _metadata(pairs: Any) -> Metadata:
    return Metadata(*((each[0], each[1]) for each in pairs or ()))


def _read_details(trailing: Metadata) -> tuple[Any, Any, Any]:
    """Return ErrorInfo, BadRequest and RetryInfo of a status, empty if they are missing."""
    details = info, request, retry = ErrorInfo(), BadRequest(), RetryInfo()
    packed = trailing.get(DETAILS_KEY) or b""
    with contextlib.suppress(DecodeError):  # a proxy may have changed them
        status = Status.FromString(packed if isinstance(packed, bytes) else packed.encode())
        for detail in status.details:
            for known in details:
                detail.Unpack(known)
    return info, request, retry
