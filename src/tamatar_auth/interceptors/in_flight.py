"""Knows the calls in flight: refuses more than there may be, and ends without cutting one off."""

import asyncio
from collections.abc import Iterable
from typing import Any

from grpc.aio import ServicerContext
from opentelemetry.metrics import CallbackOptions, Meter, Observation

from tamatar_auth.errors import ServerBusy, ServiceStopping
from tamatar_auth.interceptors.base import Behaviour, Interceptor, Method
from tamatar_auth.observability import semconv as names

OURS = "tamatar."
"""How the services begin whose calls are bounded: a busy server still tells its health."""


class DrainInterceptor(Interceptor):
    """Counts the calls in flight, and ends the streams when the server stops.

    gRPC's `stop` returns before the last lines of handlers have run; what these use must not
    be closed until `finished` returns.
    """

    def __init__(self, most: int, meter: Meter | None = None) -> None:
        self.most = most
        self.refused = 0
        """How many calls found that many others in flight."""
        self._bounded_calls = self._other_calls = 0
        self._none_in_flight = asyncio.Event()
        self._streams: set[asyncio.Task[Any]] = set()
        self._stopping = False
        if meter is not None:
            _watch(self, meter)

    def wrap(self, behaviour: Behaviour, method: Method) -> Behaviour:
        """Count a call for as long as the behaviour runs."""
        if not method.is_unary:
            return self._counted(self._ended(behaviour))
        if not method.service.startswith(OURS):
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

    async def finished(self) -> None:
        """Return when no handler runs any more."""
        while self.in_flight:
            self._none_in_flight.clear()
            await self._none_in_flight.wait()

    def _counted(self, behaviour: Behaviour) -> Behaviour:
        async def counted(request: Any, context: ServicerContext[Any, Any]) -> Any:
            self._other_calls += 1
            try:
                return await behaviour(request, context)
            finally:
                self._other_calls -= 1
                self._tell_if_none()

        return counted

    def _bounded(self, behaviour: Behaviour) -> Behaviour:
        """Count a call of ours, and refuse more than there may be.

        Streams and other services do not count: who holds a thousand of them locks nobody out.
        """

        async def bounded(request: Any, context: ServicerContext[Any, Any]) -> Any:
            if self._bounded_calls >= self.most:
                self.refused += 1
                raise ServerBusy
            self._bounded_calls += 1
            try:
                return await behaviour(request, context)
            finally:
                self._bounded_calls -= 1
                if not self._bounded_calls:
                    self._tell_if_none()

        return bounded

    def _tell_if_none(self) -> None:
        if not self.in_flight:
            self._none_in_flight.set()

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


def _watch(drain: DrainInterceptor, meter: Meter) -> None:
    def count(_options: CallbackOptions) -> Iterable[Observation]:
        yield Observation(drain.in_flight)

    def most(_options: CallbackOptions) -> Iterable[Observation]:
        yield Observation(drain.most)

    def refused(_options: CallbackOptions) -> Iterable[Observation]:
        yield Observation(drain.refused)

    meter.create_observable_up_down_counter(
        names.CALLS, [count], unit="{call}", description="The calls in flight."
    )
    meter.create_observable_up_down_counter(
        names.CALLS_MAX, [most], unit="{call}", description="The calls that there may be."
    )
    meter.create_observable_counter(
        names.CALLS_REFUSED,
        [refused],
        unit="{call}",
        description="The calls that were refused because there were as many as there may be.",
    )
