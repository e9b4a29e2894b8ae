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
        self._running: set[asyncio.Task[Any]] = set()
        self._streams: set[asyncio.Task[Any]] = set()
        self._stopping = False

    def wrap(self, behaviour: Behaviour, method: Method) -> Behaviour:
        """Keep the call's task for as long as the behaviour runs."""
        kept = [self._running] if method.is_unary else [self._running, self._streams]

        async def counted(request: Any, context: ServicerContext[Any, Any]) -> Any:
            if self._stopping and not method.is_unary:
                raise ServiceStopping
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 - gRPC runs each call in a task
            for tasks in kept:
                tasks.add(task)
            try:
                return await behaviour(request, context)
            except asyncio.CancelledError:
                if task in self._streams or method.is_unary:
                    raise
                task.uncancel()
                raise ServiceStopping from None
            finally:
                for tasks in kept:
                    tasks.discard(task)

        return counted

    def end_streams(self) -> None:
        """Tell every stream that the server stops, and let none begin.

        They would go on for ever.
        """
        self._stopping = True
        while self._streams:
            self._streams.pop().cancel()

    async def finished(self) -> None:
        """Return when no handler runs any more."""
        while self._running:
            await asyncio.wait(set(self._running))
