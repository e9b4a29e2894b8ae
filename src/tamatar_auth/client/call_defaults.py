"""The deadline and the retries of each method, from the service config beside the protos."""

import json
from collections.abc import Callable
from importlib.resources import files
from typing import Any, NamedTuple
from uuid import uuid4

from tamatar.auth.v1.user_service_pb2 import CreateUserRequest

_CONFIG = json.loads(files("tamatar.auth.v1").joinpath("grpc_service_config.json").read_text())
_CREATION = "/tamatar.auth.v1.UserService/CreateUser"


class CallDefaults(NamedTuple):
    """The defaults of a call."""

    timeout: float | None = None
    prepare: Callable[[Any], Any] = lambda request: request
    """Returns the request to send in place of the given one."""


def defaults_for(path: str) -> CallDefaults:
    """Return the defaults of a method such as `/tamatar.auth.v1.UserService/GetUser`."""
    return _DEFAULTS.get(path, CallDefaults())


def service_config() -> str:
    """Return gRPC's JSON configuration of balancing and retries.

    CANCELLED is retried because a call on a connection that the server is about to close ends
    with it, and has not run. The call's deadline bounds the retries, and they stop while most
    calls fail.

    The timeouts are omitted, because gRPC's core ends such calls up to two seconds early and
    does not send the deadline to the server (grpc/grpc#34547). They would also limit the
    `timeout` of a caller. So the channels set them call by call.
    """
    methods = [
        {key: value for key, value in entry.items() if key != "timeout"}
        for entry in _CONFIG["methodConfig"]
    ]
    return json.dumps(_CONFIG | {"methodConfig": methods})


def _with_request_id(request: CreateUserRequest) -> CreateUserRequest:
    """Return the request with an id, by which the service recognizes a retry."""
    if request.request_id:
        return request
    completed = CreateUserRequest(request_id=str(uuid4()))
    completed.MergeFrom(request)
    return completed


def _defaults(path: str, entry: dict[str, Any]) -> CallDefaults:
    timeout = float(entry["timeout"].removesuffix("s"))
    return CallDefaults(timeout, _with_request_id) if path == _CREATION else CallDefaults(timeout)


_DEFAULTS = {
    path: _defaults(path, entry)
    for entry in _CONFIG["methodConfig"]
    for name in entry["name"]
    if (path := f"/{name['service']}/{name['method']}")
}
