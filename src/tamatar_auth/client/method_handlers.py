"""The behaviour of a gRPC method handler, and handlers with another behaviour."""

from collections.abc import Callable
from typing import Any

import grpc

_KINDS = ("unary", "stream")


def behaviour_of(handler: Any) -> Callable[..., Any]:
    """Return the function of a handler that answers calls."""
    behaviour: Callable[..., Any] = getattr(handler, _arity(handler))
    return behaviour


def with_behaviour(handler: Any, behaviour: Callable[..., Any]) -> Any:
    """Return a handler of the same method with another behaviour."""
    build = getattr(grpc, f"{_arity(handler)}_rpc_method_handler")
    return build(behaviour, handler.request_deserializer, handler.response_serializer)


def _arity(handler: Any) -> str:
    return f"{_KINDS[handler.request_streaming]}_{_KINDS[handler.response_streaming]}"
