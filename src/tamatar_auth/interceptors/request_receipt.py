"""Waits for the requests of calls, within limits.

gRPC hands over a call when its headers have arrived. A client that never sends the request would
hold the call, and about 20 KB, as long as it likes.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from itertools import takewhile
from time import monotonic
from typing import Any

import grpc
from grpc_status import rpc_status

from tamatar_auth.errors import MalformedRequest, ServerBusy
from tamatar_auth.interceptors.base import (
    Behaviour,
    Context,
    Handler,
    HandlerInterceptor,
    Method,
    peer_name,
    retrieve_exception,
    split_handler,
)
from tamatar_auth.interceptors.errors import status

LATE = 1.0
"""Seconds after which the request of a call is late. An honest client sends both together."""

LATE_CALLS = 500
"""Calls whose requests may be late at once. Beyond it every late call is a strike."""

MAX_STRIKES = 10
"""Strikes of a connection without a request between them, after which it is hostile."""

CHECK_INTERVAL = 0.25
"""Seconds between two checks for overdue calls."""

CANCELLATION_WAIT = 0.1
"""Seconds after which gRPC has cancelled a call without a request, if its client has left."""

HostileCallback = Callable[[str], None]
"""Called with the peer of a hostile connection, to close it."""


class RequestReceiptInterceptor(HandlerInterceptor):
    """Receives the request of a unary call; ends calls whose request does not arrive.

    Outer interceptors act as soon as the headers have arrived: a call that they refuse waits for
    nothing. Inner ones get the request.
    """

    def __init__(self, time_limit: timedelta, on_hostile: HostileCallback) -> None:
        self._seconds = time_limit.total_seconds()
        self._on_hostile = on_hostile
        self._waiting: dict[Context, float] = {}
        """The calls without a request and when they arrived, the oldest first."""
        self._strikes: Counter[str] = Counter()
        """The strikes of each connection since its last request."""
        self._timer: asyncio.TimerHandle | None = None
        self._endings: dict[Context, asyncio.Future[Any]] = {}
        """The answers to overdue calls."""

    def wrap_handler(self, handler: Handler, method: Method) -> Handler:
        """Return a handler that gRPC calls before it has a request."""
        if method.request_streaming:
            return handler
        _, behaviour = split_handler(handler)
        build = (
            grpc.stream_stream_rpc_method_handler
            if method.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        received: Handler = build(
            self._received(behaviour),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        return received

    def _received(self, behaviour: Behaviour) -> Behaviour:
        waiting = self._waiting

        async def received(_requests: Any, context: Context) -> Any:
            waiting[context] = monotonic()
            if self._timer is None:
                self._schedule_check()
            try:
                request = await context.read()
                if request is grpc.aio.EOF:
                    await asyncio.sleep(CANCELLATION_WAIT)
            finally:
                waiting.pop(context, None)
                ending = self._endings.pop(context, None)
            if ending is not None:  # a call is answered once: this raises `AbortError`
                await ending
            if request is grpc.aio.EOF:
                raise MalformedRequest
            if self._strikes:
                self._strikes.pop(peer_name(context), None)
            return await behaviour(request, context)

        return received

    def _schedule_check(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(CHECK_INTERVAL, self._check)

    def _check(self) -> None:
        """End the calls that wait for too long, and report hostile connections."""
        if self._waiting:
            self._schedule_check()
        else:
            self._timer = None
            self._strikes.clear()
        now = monotonic()
        # The oldest come first.
        late = [*takewhile(lambda call: now - call[1] >= LATE, self._waiting.items())]
        for context, arrived in late:
            is_overdue = now - arrived >= self._seconds
            if is_overdue or len(late) > LATE_CALLS:
                self._strike(context)
            if is_overdue:
                del self._waiting[context]
                self._end(context)

    def _strike(self, context: Context) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            peer = peer_name(context)
            self._strikes[peer] += 1
            if self._strikes[peer] == MAX_STRIKES:
                self._on_hostile(peer)

    def _end(self, context: Context) -> None:
        """Answer a call, whose read then raises `AbortError`."""
        answer = context.abort_with_status(rpc_status.to_status(status(ServerBusy())))
        self._endings[context] = ending = asyncio.ensure_future(answer)
        ending.add_done_callback(retrieve_exception)
