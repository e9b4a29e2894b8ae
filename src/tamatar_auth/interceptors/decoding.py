"""Turns the bytes of requests into messages, once it is known that the caller may call."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from grpc.aio import ServicerContext

from tamatar_auth.errors import MalformedRequest
from tamatar_auth.interceptors.base import (
    Behaviour,
    Handler,
    HandlerInterceptor,
    Method,
    retrieve_exception,
    split_handler,
)

Decode = Callable[[bytes], Any]


class DecodingInterceptor(HandlerInterceptor):
    """Decodes requests inside of the call.

    Left to itself gRPC does it before any interceptor is asked: callers who will be refused
    learn whether their bytes are right, and bytes that are wrong end as UNKNOWN. Interceptors
    around this one see bytes.
    """

    def wrap_handler(self, handler: Handler, method: Method) -> Handler:
        """Return a handler that takes bytes."""
        build, behaviour = split_handler(handler)
        decode = handler.request_deserializer or bytes
        decoded = _decode_stream if method.request_streaming else _decode_unary
        return build(
            decoded(behaviour, decode),
            request_deserializer=None,
            response_serializer=handler.response_serializer,
        )


def _decode_unary(behaviour: Behaviour, decode: Decode) -> Behaviour:
    def call(request: bytes, context: ServicerContext[Any, Any]) -> Awaitable[Any]:
        return behaviour(_parse(decode, request), context)

    return call


def _decode_stream(behaviour: Behaviour, decode: Decode) -> Behaviour:
    def call(requests: AsyncIterator[bytes], context: ServicerContext[Any, Any]) -> Awaitable[Any]:
        return behaviour(
            (_parse(decode, request) async for request in _shielded_requests(requests)), context
        )

    return call


async def _shielded_requests(requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Give the requests of a stream as they come.

    Whoever waits for one may be cancelled, the reading itself may not: gRPC would put what it
    reads where memory has been freed. It ends with the call.
    """
    while True:
        next_request = asyncio.ensure_future(anext(requests, None))
        next_request.add_done_callback(retrieve_exception)
        request = await asyncio.shield(next_request)
        if request is None:
            return
        yield request


def _parse(decode: Decode, request: bytes) -> Any:
    try:
        return decode(request)
    except Exception:  # noqa: BLE001 - whatever protobuf finds wrong
        raise MalformedRequest from None
