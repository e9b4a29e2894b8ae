"""Decodes requests after the caller is authenticated."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from tamatar_auth.errors import MalformedRequest
from tamatar_auth.interceptors.base import (
    Behaviour,
    Context,
    Handler,
    HandlerInterceptor,
    Method,
    retrieve_exception,
    split_handler,
)

Decode = Callable[[bytes], Any]


class DecodingInterceptor(HandlerInterceptor):
    """Decodes requests within the call. Interceptors around this one see bytes.

    gRPC itself would decode before any interceptor runs: callers without access would learn
    whether their bytes are valid, and invalid bytes would end as UNKNOWN.
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
    def call(request: bytes, context: Context) -> Awaitable[Any]:
        return behaviour(_parse(decode, request), context)

    return call


def _decode_stream(behaviour: Behaviour, decode: Decode) -> Behaviour:
    def call(requests: AsyncIterator[bytes], context: Context) -> Awaitable[Any]:
        return behaviour(
            (_parse(decode, request) async for request in _shielded_requests(requests)), context
        )

    return call


async def _shielded_requests(requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the requests of a stream.

    A cancelled call does not cancel its read, because gRPC would write the request to freed
    memory. The read ends with the call.
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
    except Exception:  # noqa: BLE001 - protobuf raises several kinds
        raise MalformedRequest from None
