"""Counts the calls in flight: refuses calls beyond a limit, and waits for them at shutdown."""

import asyncio
from typing import Any

from opentelemetry.metrics import Meter

from tamatar_auth.errors import ServerBusy, ServiceStopping
from tamatar_auth.interceptors.base import Behaviour, Context, Interceptor, Method
from tamatar_auth.interceptors.cancellation import CancellableCall
from tamatar_auth.observability import semconv
from tamatar_auth.observability.instruments import observe_counter, observe_gauge

BOUNDED_SERVICES = "tamatar."
"""The prefix of the services whose calls are bounded. Health is not: a busy server reports it."""


class InFlightInterceptor(Interceptor):
    """Counts the calls in flight, and ends the streams when the server stops.

    gRPC's `stop` returns before the `finally` blocks of handlers have run. The components that
    they use must stay open until `wait_until_idle` returns.
    """

    def __init__(self, limit: int, meter: Meter | None = None) -> None:
        self.limit = limit
        self.refused = 0
        """The number of calls that were refused because of the limit."""
        self._bounded_calls = self._other_calls = 0
        self._idle = asyncio.Event()
        self._streams: set[CancellableCall] = set()
        self._stopping = False
        if meter is not None:
            _register_metrics(self, meter)

    def wrap(self, behaviour: Behaviour, method: Method) -> Behaviour:
        """Count a call while the behaviour runs."""
        if not method.is_unary:
            return self._counted(self._ended_by_shutdown(behaviour))
        if not method.service.startswith(BOUNDED_SERVICES):
            return self._counted(behaviour)
        return self._bounded(behaviour)

    @property
    def in_flight(self) -> int:
        """The number of calls in flight."""
        return self._bounded_calls + self._other_calls

    def end_streams(self) -> None:
        """End every stream with `ServiceStopping`, and refuse new ones.

        Streams have no end of their own.
        """
        self._stopping = True
        for call in self._streams:
            call.cancel_with(ServiceStopping())

    async def wait_until_idle(self) -> None:
        """Return when no handler runs."""
        while self.in_flight:
            self._idle.clear()
            await self._idle.wait()

    def _counted(self, behaviour: Behaviour) -> Behaviour:
        async def counted(request: Any, context: Context) -> Any:
            self._other_calls += 1
            try:
                return await behaviour(request, context)
            finally:
                self._other_calls -= 1
                self._signal_if_idle()

        return counted

    def _bounded(self, behaviour: Behaviour) -> Behaviour:
        """Count a call of our services, and refuse it beyond the limit.

        Streams and other services do not count, so a thousand of them lock no caller out.
        """

        async def bounded(request: Any, context: Context) -> Any:
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

    def _ended_by_shutdown(self, behaviour: Behaviour) -> Behaviour:
        """End the streams of a behaviour when the server stops."""

        async def stream(request: Any, context: Context) -> Any:
            if self._stopping:
                raise ServiceStopping
            call = CancellableCall()
            self._streams.add(call)
            try:
                return await call.run(behaviour(request, context))
            finally:
                self._streams.discard(call)

        return stream


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
