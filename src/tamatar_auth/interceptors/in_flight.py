"""Knows the calls in flight: refuses more than there may be, and ends without cutting one off."""

import asyncio
from typing import Any

from grpc.aio import ServicerContext
from opentelemetry.metrics import Meter

from tamatar_auth.errors import ServerBusy, ServiceStopping
from tamatar_auth.interceptors.base import Behaviour, Interceptor, Method
from tamatar_auth.observability import semconv
from tamatar_auth.observability.instruments import observe_counter, observe_gauge

BOUNDED_SERVICES = "tamatar."
"""How the services begin whose calls are bounded: a busy server still tells its health."""


class InFlightInterceptor(Interceptor):
    """Counts the calls in flight, and ends the streams when the server stops.

    gRPC's `stop` returns before the last lines of handlers have run; what these use must not
    be closed until `wait_until_idle` returns.
    """

    def __init__(self, limit: int, meter: Meter | None = None) -> None:
        self.limit = limit
        self.refused = 0
        """How many calls found that many others in flight."""
        self._bounded_calls = self._other_calls = 0
        self._idle = asyncio.Event()
        self._streams: set[asyncio.Task[Any]] = set()
        self._stopping = False
        if meter is not None:
            _register_metrics(self, meter)

    def wrap(self, behaviour: Behaviour, method: Method) -> Behaviour:
        """Count a call for as long as the behaviour runs."""
        if not method.is_unary:
            return self._counted(self._cancellable(behaviour))
        if not method.service.startswith(BOUNDED_SERVICES):
            return self._counted(behaviour)
        return self._bounded(behaviour)

    @property
    def in_flight(self) -> int:
        """How many calls there are."""
        return self._bounded_calls + self._other_calls

    def end_streams(self) -> None:
        """Tell every stream that the server stops, and let none begin.

        They would go on for ever.
        """
        self._stopping = True
        while self._streams:
            self._streams.pop().cancel()

    async def wait_until_idle(self) -> None:
        """Return when no handler runs any more."""
        while self.in_flight:
            self._idle.clear()
            await self._idle.wait()

    def _counted(self, behaviour: Behaviour) -> Behaviour:
        async def counted(request: Any, context: ServicerContext[Any, Any]) -> Any:
            self._other_calls += 1
            try:
                return await behaviour(request, context)
            finally:
                self._other_calls -= 1
                self._signal_if_idle()

        return counted

    def _bounded(self, behaviour: Behaviour) -> Behaviour:
        """Count a call of ours, and refuse more than there may be.

        Streams and other services do not count: who holds a thousand of them locks nobody out.
        """

        async def bounded(request: Any, context: ServicerContext[Any, Any]) -> Any:
            if self._bounded_calls >= self.limit:
                self.refused += 1
                raise ServerBusy
            self._bounded_calls += 1
            try:
                return await behaviour(request, context)
            finally:
                self._bounded_calls -= 1
                if not self._bounded_calls:
                    self._signal_if_idle()

        return bounded

    def _signal_if_idle(self) -> None:
        if not self.in_flight:
            self._idle.set()

    def _cancellable(self, behaviour: Behaviour) -> Behaviour:
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


def _register_metrics(calls: InFlightInterceptor, meter: Meter) -> None:
    observe_gauge(
        meter,
        semconv.CALLS,
        lambda: calls.in_flight,
        unit="{call}",
        description="The calls in flight.",
    )
    observe_gauge(
        meter,
        semconv.CALLS_MAX,
        lambda: calls.limit,
        unit="{call}",
        description="The calls that may be in flight at once.",
    )
    observe_counter(
        meter,
        semconv.CALLS_REFUSED,
        lambda: calls.refused,
        unit="{call}",
        description="The calls that were rejected because the limit was reached.",
    )
