"""What the interceptors have in common.

Ours wrap the handler of each method once, and see every method as one kind of function,
streams included.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Self, TypeAlias

import grpc
from grpc.aio import ServerInterceptor, ServicerContext

Behaviour = Callable[[Any, ServicerContext[Any, Any]], Awaitable[Any]]
"""Answers a call: takes the request (or an iterator of them) and the context. Returns the
response, or None after it wrote a stream of them."""

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Method(NamedTuple):
    """A method that is called, such as `ValidateSession` of `tamatar.auth.v1.SessionService`."""

    service: str
    name: str
    takes_stream: bool
    answers_stream: bool

    @classmethod
    def of(cls, path: str, handler: Handler) -> Self:
        """Read the path of a call, `/package.Service/Method`."""
        service, _, name = path.lstrip("/").rpartition("/")
        return cls(service, name, bool(handler.request_streaming), bool(handler.response_streaming))

    @property
    def is_unary(self) -> bool:
        """Whether one request gets one response."""
        return not self.takes_stream and not self.answers_stream


class HandlerInterceptor(ABC):
    """Wraps the handler of every method."""

    @abstractmethod
    def wrap_handler(self, handler: Handler, method: Method) -> Handler:
        """Return a handler that does this interceptor's work around the given one."""


class Interceptor(HandlerInterceptor):
    """Wraps the behaviour of every method; requests pass as they are."""

    @abstractmethod
    def wrap(self, behaviour: Behaviour, method: Method) -> Behaviour:
        """Return a behaviour that does this interceptor's work around the given one."""

    def wrap_handler(self, handler: Handler, method: Method) -> Handler:
        """Return the handler with its behaviour wrapped."""
        build, behaviour = parts(handler)
        return build(
            self.wrap(behaviour, method),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


class Chain(ServerInterceptor):
    """The interceptors, the outermost first, as the one that gRPC knows.

    gRPC asks for a handler on every call. It is wrapped once and kept, so that a call costs
    one question, however many interceptors there are.
    """

    def __init__(self, interceptors: Sequence[HandlerInterceptor]) -> None:
        self._interceptors = interceptors
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Return the wrapped handler of the method that is called."""
        path = handler_call_details.method
        wrapped = self._wrapped.get(path)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:  # no such method: gRPC answers UNIMPLEMENTED
                return None
            wrapped = self._wrapped[path] = self._wrap(handler, Method.of(path, handler))
        return wrapped

    def _wrap(self, handler: Handler, method: Method) -> Handler:
        for interceptor in reversed(self._interceptors):
            handler = interceptor.wrap_handler(handler, method)
        return handler


def parts(handler: Handler) -> tuple[Callable[..., Handler], Behaviour]:
    """Return what builds a handler of this kind, and the behaviour of the given one."""
    match bool(handler.request_streaming), bool(handler.response_streaming):
        case False, False:
            return grpc.unary_unary_rpc_method_handler, handler.unary_unary  # type: ignore[return-value]
        case True, False:
            return grpc.stream_unary_rpc_method_handler, handler.stream_unary  # type: ignore[return-value]
        case False, True:
            return grpc.unary_stream_rpc_method_handler, _written(handler.unary_stream)
        case _:
            return grpc.stream_stream_rpc_method_handler, _written(handler.stream_stream)


def _written(behaviour: Callable[..., Any] | None) -> Behaviour:
    """Turn a handler that yields its responses into one that writes them."""
    assert behaviour is not None  # noqa: S101 - for the type checker

    async def write(request: Any, context: ServicerContext[Any, Any]) -> None:
        answer = behaviour(request, context)
        if not hasattr(answer, "__aiter__"):
            await answer
            return
        async for response in answer:
            await context.write(response)

    return write
