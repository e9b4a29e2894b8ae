"""Knows the calls in flight, so that the server can end without cutting one off."""

import asyncio
from typing import Any

from grpc.aio import ServicerContext

from tamatar_auth.errors import ServiceStopping
from tamatar_auth.interceptors.base import Behaviour, Interceptor, Method


class DrainInterceptor(Interceptor):
    """Counts the calls in flight, and ends the streams when the server stops.

    gRPC's `stop` returns before the last lines of handlers have run; what these use must not
    be closed until `finished` returns.
    """

    def __init__(self) -> None:
        self._in_flight = 0
        self._none_in_flight = asyncio.Event()
        self._streams: set[asyncio.Task[Any]] = set()
        self._stopping = False

    def wrap(self, behaviour: Behaviour, method: Method) -> Behaviour:
        """Count a call for as long as the behaviour runs."""
        return self._counted(behaviour if method.is_unary else self._ended(behaviour))

    def end_streams(self) -> None:
        """Tell every stream that the server stops, and let none begin.

        They would go on for ever.
        """
        self._stopping = True
        while self._streams:
            self._streams.pop().cancel()

    async def finished(self) -> None:
        """Return when no handler runs any more."""
        while self._in_flight:
            self._none_in_flight.clear()
            await self._none_in_flight.wait()

    def _counted(self, behaviour: Behaviour) -> Behaviour:
        async def counted(request: Any, context: ServicerContext[Any, Any]) -> Any:
            self._in_flight += 1
            try:
                return await behaviour(request, context)
            finally:
                self._in_flight -= 1
                if not self._in_flight:
                    self._none_in_flight.set()

        return counted

    def _ended(self, behaviour: Behaviour) -> Behaviour:
        """Let streams of a behaviour be ended."""

        async def ended(request: Any, context: ServicerContext[Any, Any]) -> Any:
            if self._stopping:
                raise ServiceStopping
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 - gRPC runs each call in a task
            self._streams.add(task)
            try:
                return await behaviour(request, context)
            except asyncio.CancelledError:
                if task in self._streams:  # it was the caller
                    raise
                task.uncancel()
                raise ServiceStopping from None
            finally:
                self._streams.discard(task)

        return ended
