"""The interceptors' base classes.

An interceptor wraps the handler of each method once, at the start. All methods have the same
kind of handler, streams included.
"""

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Self, TypeAlias

import grpc
from grpc.aio import ServicerContext

from tamatar_auth.errors import StreamInterrupted

Context: TypeAlias = ServicerContext[Any, Any]

WRITE_TIMEOUT = 30.0
"""Seconds that a client may take to accept a response of a stream."""

Behaviour = Callable[[Any, Context], Awaitable[Any]]
"""Answers a call: takes the request, or an iterator of requests, and the context. Returns the
response, or None after it wrote a stream of responses. gRPC requires a coroutine function as the
outermost. A behaviour that only acts before the next one returns the next one's awaitable,
because each coroutine around a call costs about a microsecond."""

CANCELLED_WRITE_TIMEOUT = 1.0
"""Seconds that a cancelled call waits for the response that is being written."""

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


def peer_name(context: Context) -> str:
    """Return the name of a connection, such as `ipv4:192.0.2.1:50000`.

    Raises `CancelledError` if the call has ended: gRPC forgets the peer of a cancelled call.
    """
    peer = str(context.peer())
    if not peer:
        raise asyncio.CancelledError
    return peer


class Method(NamedTuple):
    """A method, such as `ValidateSession` of `tamatar.auth.v1.SessionService`."""

    service: str
    name: str
    request_streaming: bool
    response_streaming: bool

    @classmethod
    def of(cls, service: str, name: str, handler: Handler) -> Self:
        """Return the method that a handler of a service answers."""
        return cls(service, name, bool(handler.request_streaming), bool(handler.response_streaming))

    @property
    def is_unary(self) -> bool:
        """Whether one request gets one response."""
        return not self.request_streaming and not self.response_streaming


class HandlerInterceptor(ABC):
    """Wraps the handler of every method."""

    @abstractmethod
    def wrap_handler(self, handler: Handler, method: Method) -> Handler:
        """Return a handler that does the interceptor's work around the given one."""


class Interceptor(HandlerInterceptor):
    """Wraps the behaviour of every method; requests pass as they are."""

    @abstractmethod
    def wrap(self, behaviour: Behaviour, method: Method) -> Behaviour:
        """Return a behaviour that does the interceptor's work around the given one."""

    def wrap_handler(self, handler: Handler, method: Method) -> Handler:
        """Return the handler with its behaviour wrapped."""
        build, behaviour = split_handler(handler)
        return build(
            self.wrap(behaviour, method),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


def split_handler(handler: Handler) -> tuple[Callable[..., Handler], Behaviour]:
    """Return the factory of handlers of this kind, and the behaviour of the given handler."""
    match bool(handler.request_streaming), bool(handler.response_streaming):
        case False, False:
            return grpc.unary_unary_rpc_method_handler, handler.unary_unary  # type: ignore[return-value]
        case True, False:
            return grpc.stream_unary_rpc_method_handler, handler.stream_unary  # type: ignore[return-value]
        case False, True:
            return grpc.unary_stream_rpc_method_handler, _as_writer(handler.unary_stream)
        case _:
            return grpc.stream_stream_rpc_method_handler, _as_writer(handler.stream_stream)


def _as_writer(behaviour: Callable[..., Any] | None) -> Behaviour:
    """Turn a handler that yields its responses into a behaviour that writes them."""
    assert behaviour is not None  # noqa: S101 - for the type checker

    async def write(request: Any, given: Context) -> None:
        context = given if isinstance(given, ShieldedWrites) else ShieldedWrites(given)
        answer = behaviour(request, context)
        if not hasattr(answer, "__aiter__"):
            await answer
            return
        # Otherwise the generator would be closed some time after the call.
        async with contextlib.aclosing(answer):
            async for response in answer:
                await _wait_until_written(context.write(response))

    return write


class ShieldedWrites:
    """The context of a call, whose writes survive the cancellation of the call.

    After a cancelled write gRPC may never end the call, or may use freed memory.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, message: Any) -> None:
        """Write a response. A call that is cancelled waits a moment for the write to end."""
        writing = asyncio.ensure_future(self._context.write(message))
        writing.add_done_callback(retrieve_exception)
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait([writing], timeout=CANCELLED_WRITE_TIMEOUT)
            raise


def retrieve_exception(outcome: "asyncio.Future[Any]") -> None:
    """Retrieve the exception of a future: asyncio logs exceptions that are never retrieved."""
    if not outcome.cancelled():
        outcome.exception()


async def _wait_until_written(writing: Awaitable[None]) -> None:
    """Wait until the client accepted a response, or raise `StreamInterrupted`."""
    try:
        async with asyncio.timeout(WRITE_TIMEOUT):
            await writing
    except TimeoutError:
        raise StreamInterrupted from None
