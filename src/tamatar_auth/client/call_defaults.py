"""The deadline and the retries of each method."""

import json
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from uuid import uuid4

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

from tamatar.auth.v1 import diagnostics_service_pb2, session_service_pb2, user_service_pb2
from tamatar.auth.v1.user_service_pb2 import CreateUserRequest

TIMEOUT = 5.0
HASHING_TIMEOUT = 10.0
"""Seconds that a call may take, and that a call may take which hashes a password."""

_HASHING_METHODS = frozenset({"CreateUser", "CreateSession", "ChangePassword", "ResetPassword"})
_REPEATABLE_METHODS = frozenset(
    {
        "CreateUser",  # by its request_id
        "CreateSession",
        "RefreshSession",
        "RevokeSession",
        "RevokeUserSessions",
        "ActivateUser",
        "DeactivateUser",
        "CreateEmailVerification",
        "CreatePasswordReset",
    }
)
"""The methods that change something, and may run twice with the effect of one run."""


class CallDefaults(NamedTuple):
    """The defaults of a call."""

    timeout: float | None = None
    prepare: Callable[[Any], Any] = lambda request: request
    """Returns the request to send in place of the given one."""


def defaults_for(path: str) -> CallDefaults:
    """Return the defaults of a method such as `/tamatar.auth.v1.UserService/GetUser`."""
    return _DEFAULTS.get(path, CallDefaults())


def service_config() -> str:
    """Return gRPC's JSON configuration of the retries.

    CANCELLED is retried because a call on a connection that the server is about to close ends
    with it, and has not run. The call's deadline bounds the retries, and they stop while most
    calls fail.
    """
    repeatable = [method for method in _methods() if is_repeatable(method)]
    return json.dumps(
        {
            "loadBalancingConfig": [{"round_robin": {}}],
            "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
            "methodConfig": [
                {
                    "name": [
                        {"service": method.containing_service.full_name, "method": method.name}
                        for method in repeatable
                    ],
                    "retryPolicy": {
                        "maxAttempts": 5,
                        "initialBackoff": "0.05s",
                        "maxBackoff": "1s",
                        "backoffMultiplier": 2,
                        "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
                    },
                }
            ],
        }
    )


def is_repeatable(method: MethodDescriptor) -> bool:
    """Return whether a call may run again after its first response was lost."""
    if method.client_streaming or method.server_streaming:
        return False
    reads = method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS
    return reads or method.name in _REPEATABLE_METHODS


def _methods() -> Iterable[MethodDescriptor]:
    for file in (user_service_pb2, session_service_pb2, diagnostics_service_pb2):
        for service in file.DESCRIPTOR.services_by_name.values():
            yield from service.methods


def _with_request_id(request: CreateUserRequest) -> CreateUserRequest:
    """Return the request with an id, by which the service recognizes a retry."""
    if request.request_id:
        return request
    completed = CreateUserRequest(request_id=str(uuid4()))
    completed.MergeFrom(request)
    return completed


def _defaults(method: MethodDescriptor) -> CallDefaults:
    if method.client_streaming or method.server_streaming:
        return CallDefaults()
    timeout = HASHING_TIMEOUT if method.name in _HASHING_METHODS else TIMEOUT
    is_creation = method.input_type.full_name == CreateUserRequest.DESCRIPTOR.full_name
    return CallDefaults(timeout, _with_request_id) if is_creation else CallDefaults(timeout)


_DEFAULTS = {
    f"/{method.containing_service.full_name}/{method.name}": _defaults(method)
    for method in _methods()
}
