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
    parts,
    take_note,
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
        build, behaviour = parts(handler)
        decode = handler.request_deserializer or bytes
        decoded = _each_decoded if method.takes_stream else _decoded
        return build(
            decoded(behaviour, decode),
            request_deserializer=None,
            response_serializer=handler.response_serializer,
        )


def _decoded(behaviour: Behaviour, decode: Decode) -> Behaviour:
    def call(request: bytes, context: ServicerContext[Any, Any]) -> Awaitable[Any]:
        return behaviour(_message(decode, request), context)

    return call


def _each_decoded(behaviour: Behaviour, decode: Decode) -> Behaviour:
    def call(requests: AsyncIterator[bytes], context: ServicerContext[Any, Any]) -> Awaitable[Any]:
        return behaviour((_message(decode, request) async for request in _read(requests)), context)

    return call


async def _read(requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Give the requests of a stream as they come.

    Whoever waits for one may be cancelled, the reading itself may not: gRPC would put what it
    reads where memory has been freed. It ends with the call.
    """
    while True:
        reading = asyncio.ensure_future(anext(requests, None))
        reading.add_done_callback(take_note)
        request = await asyncio.shield(reading)
        if request is None:
            return
        yield request


def _message(decode: Decode, request: bytes) -> Any:
    try:
        return decode(request)
    except Exception:  # noqa: BLE001 - whatever protobuf finds wrong
        raise MalformedRequest from None
