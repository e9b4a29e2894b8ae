"""The errors of the fake service: the statuses and reasons of the real one."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode

from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar_auth.client.errors import DETAILS_KEY, ERROR_DOMAIN

MAX_VIOLATIONS = 20
"""Field violations in one status, as in a status of the real service."""

_REASONS_BY_STATUS = {
    StatusCode.INVALID_ARGUMENT: (
        *("INVALID_FIELDS", "MALFORMED_REQUEST", "INVALID_PAGE_TOKEN", "VALUE_REFUSED"),
    ),
    StatusCode.NOT_FOUND: ("USER_NOT_FOUND", "SESSION_NOT_FOUND", "FACTOR_NOT_FOUND"),
    StatusCode.ALREADY_EXISTS: (
        *("EMAIL_TAKEN", "USERNAME_TAKEN", "REQUEST_ID_REUSED"),
        *("USER_ID_TAKEN", "IMPORTED_DIFFERENTLY", "PASSKEY_TAKEN"),
    ),
    StatusCode.FAILED_PRECONDITION: (
        *("USER_NOT_DELETED", "EMAIL_NOT_VERIFIED", "CONSTRAINT_VIOLATED"),
        *("QUERY_STATISTICS_MISSING", "FACTORS_NOT_CONFIGURED", "TOO_MANY_FACTORS"),
    ),
    StatusCode.ABORTED: ("ETAG_MISMATCH", "TRANSACTION_CONFLICT"),
    StatusCode.RESOURCE_EXHAUSTED: ("TOO_MANY_ATTEMPTS", "SERVER_BUSY"),
    StatusCode.UNAVAILABLE: (
        *("STORAGE_UNAVAILABLE", "SERVICE_STOPPING", "STREAM_INTERRUPTED"),
        "PRIMARY_NOT_CONFIRMED",
    ),
    StatusCode.DEADLINE_EXCEEDED: ("STORAGE_TIMED_OUT",),
    StatusCode.INTERNAL: ("INTERNAL_FAULT",),
    StatusCode.PERMISSION_DENIED: ("CALLER_NOT_ALLOWED",),
}
_STATUSES = {name: code for code, names in _REASONS_BY_STATUS.items() for name in names}

_WITH_RETRY = {*_REASONS_BY_STATUS[StatusCode.RESOURCE_EXHAUSTED], "TRANSACTION_CONFLICT"}
_WITH_RETRY |= {*_REASONS_BY_STATUS[StatusCode.UNAVAILABLE]}


class BrokenRule(NamedTuple):
    """A field of the request, as a path such as `profile.bio`, and the rule it breaks."""

    field: str
    description: str


class RefusedError(Exception):
    """A call fails with a reason."""

    def __init__(
        self,
        reason: ErrorReason.ValueType,
        broken_rules: Iterable[BrokenRule] = (),
        *,
        metadata: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(ErrorReason.Name(reason))
        self.metadata = metadata
        self.reason = reason
        self.broken_rules = list(broken_rules)

    def abort(self, context: Any) -> NoReturn:
        """End a call with the status of the real service."""
        name = ErrorReason.Name(self.reason)
        code = status_of(name)
        status = Status(code=code.value[0], message=f"The fake service returns {name}.")
        details: list[Message] = [
            ErrorInfo(reason=name, domain=ERROR_DOMAIN, metadata=self.metadata)
        ]
        if self.broken_rules:
            shown = self.broken_rules[:MAX_VIOLATIONS]
            violations = [BadRequest.FieldViolation(**each._asdict()) for each in shown]
            details.append(BadRequest(field_violations=violations))
        if has_retry_delay(name):
            details.append(RetryInfo(retry_delay=Duration(nanos=100_000_000)))
        for detail in details:
            status.details.add().Pack(detail)
        context.set_trailing_metadata(((DETAILS_KEY, status.SerializeToString()),))
        context.abort(code, status.message)
        raise self


def invalid_field(field: str, description: str) -> RefusedError:
    """Return the failure for one field."""
    return RefusedError(ErrorReason.INVALID_FIELDS, [BrokenRule(field, description)])


def status_of(reason_name: str) -> StatusCode:
    """Return the status of a reason. Reasons that are in no table have UNAUTHENTICATED."""
    return _STATUSES.get(reason_name, StatusCode.UNAUTHENTICATED)


def has_retry_delay(reason_name: str) -> bool:
    """Return whether the status of a reason says when to try again."""
    return reason_name in _WITH_RETRY
