"""The errors of the fake service: the statuses and reasons of the real one."""

from typing import Any, NoReturn
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode

from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar_auth.client.errors import DETAILS_KEY, ERROR_DOMAIN

_CODES = {
    ErrorReason.INVALID_FIELDS: StatusCode.INVALID_ARGUMENT,
    ErrorReason.USER_NOT_FOUND: StatusCode.NOT_FOUND,
    ErrorReason.SESSION_NOT_FOUND: StatusCode.NOT_FOUND,
    ErrorReason.STORAGE_UNAVAILABLE: StatusCode.UNAVAILABLE,
    ErrorReason.STREAM_INTERRUPTED: StatusCode.UNAVAILABLE,
    ErrorReason.SERVICE_STOPPING: StatusCode.UNAVAILABLE,
}
"""The status of each reason. Other reasons have UNAUTHENTICATED."""

_MAX_TOKEN_LENGTH = 128


class RefusedError(Exception):
    """A call fails with a reason. `fields` are the invalid fields."""

    def __init__(self, reason: ErrorReason.ValueType, *fields: str) -> None:
        super().__init__(ErrorReason.Name(reason))
        self.reason = reason
        self.fields = fields

    def abort(self, context: Any) -> NoReturn:
        """End a call with the status of the real service."""
        code = _CODES.get(self.reason, StatusCode.UNAUTHENTICATED)
        name = ErrorReason.Name(self.reason)
        message = f"The fake service returns {name}."
        status = Status(code=code.value[0], message=message)
        details: list[Message] = [ErrorInfo(reason=name, domain=ERROR_DOMAIN)]
        if self.fields:
            violation = BadRequest.FieldViolation
            broken = [violation(field=each, description="breaks a rule") for each in self.fields]
            details.append(BadRequest(field_violations=broken))
        if code is StatusCode.UNAVAILABLE:
            details.append(RetryInfo(retry_delay=Duration(nanos=100_000_000)))
        for detail in details:
            status.details.add().Pack(detail)
        context.set_trailing_metadata(((DETAILS_KEY, status.SerializeToString()),))
        context.abort(code, message)
        raise self


def parse_uuid(field: str, text: str) -> str:
    """Return a UUID in canonical form, or raise `RefusedError`."""
    try:
        return str(UUID(text))
    except ValueError:
        raise RefusedError(ErrorReason.INVALID_FIELDS, field) from None


def parse_session_token(field: str, text: str) -> str:
    """Return a well-formed token, or raise `RefusedError`."""
    if not 1 <= len(text) <= _MAX_TOKEN_LENGTH or not text.isprintable():
        raise RefusedError(ErrorReason.INVALID_FIELDS, field)
    return text
