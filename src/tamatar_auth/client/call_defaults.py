"""What each method of the service gets from this client: a deadline, and another try."""

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
"""Seconds that calls may take, the second one for calls that have a password hashed."""

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
"""The methods that may run twice, as what they leave behind is what one run does. All that only
read are repeatable beside them."""


class CallDefaults(NamedTuple):
    """What a call gets that does not say otherwise."""

    timeout: float | None = None
    prepare: Callable[[Any], Any] = lambda request: request
    """Makes of the given request the one that is sent."""


def defaults_for(path: str) -> CallDefaults:
    """Return the defaults of a method such as `/tamatar.auth.v1.UserService/GetUser`."""
    return _DEFAULTS.get(path, CallDefaults())


def service_config() -> str:
    """Write as gRPC wants it which methods are tried again.

    A call on a connection that the server is about to close ends CANCELLED and has not run.
    Tries are bounded by the call's deadline, and stop where most of them fail.
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
    """Tell whether a call may run twice where its first answer was lost."""
    if method.client_streaming or method.server_streaming:
        return False
    reads = method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS
    return reads or method.name in _REPEATABLE_METHODS


def _methods() -> Iterable[MethodDescriptor]:
    for file in (user_service_pb2, session_service_pb2, diagnostics_service_pb2):
        for service in file.DESCRIPTOR.services_by_name.values():
            yield from service.methods


def _with_request_id(request: CreateUserRequest) -> CreateUserRequest:
    """Give a creation the id by which the service knows it again."""
    if request.request_id:
        return request
    completed = CreateUserRequest(request_id=str(uuid4()))
    completed.MergeFrom(request)
    return completed


def _defaults(method: MethodDescriptor) -> CallDefaults:
    if method.client_streaming or method.server_streaming:
        return CallDefaults()
    timeout = HASHING_TIMEOUT if method.name in _HASHING_METHODS else TIMEOUT
    if method.input_type.full_name == CreateUserRequest.DESCRIPTOR.full_name:
        return CallDefaults(timeout, _with_request_id)
    return CallDefaults(timeout)


_DEFAULTS = {
    f"/{method.containing_service.full_name}/{method.name}": _defaults(method)
    for method in _methods()
}
