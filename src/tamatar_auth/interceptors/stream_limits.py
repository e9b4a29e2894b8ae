"""Bounds the streams that a process answers."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from grpc.aio import ServicerContext
from opentelemetry.metrics import CallbackOptions, Meter, Observation

from tamatar_auth.errors import ServerBusy
from tamatar_auth.interceptors.base import Behaviour, Interceptor, Method
from tamatar_auth.interceptors.in_flight import OURS
from tamatar_auth.observability import semconv as names

ALIKE = "unix:"
"""What gRPC calls the other end of every connection to a unix socket."""


class StreamInterceptor(Interceptor):
    """Refuses a stream of ours when there are many, or many of its connection.

    They last: without a bound for connections, one client that forgets to end its streams
    would lock out all others.
    """

    def __init__(self, most: int, most_of_one: int, meter: Meter | None = None) -> None:
        self.most = most
        self.refused = 0
        self._most_of_one = most_of_one
        self._open: Counter[str] = Counter()
        """How many streams each connection has."""
        if meter is not None:
            _watch(self, meter)

    @property
    def open(self) -> int:
        """How many streams there are."""
        return self._open.total()

    def wrap(self, behaviour: Behaviour, method: Method) -> Behaviour:
        """Count the streams of a behaviour that answers some."""
        if not method.answers_stream or not method.service.startswith(OURS):
            return behaviour

        async def bounded(request: Any, context: ServicerContext[Any, Any]) -> Any:
            peer = str(context.peer())
            if self._is_full(peer):
                self.refused += 1
                raise ServerBusy
            self._open[peer] += 1
            try:
                return await behaviour(request, context)
            finally:
                self._open[peer] -= 1
                if not self._open[peer]:
                    del self._open[peer]

        return bounded

    def _is_full(self, peer: str) -> bool:
        if self.open >= self.most:
            return True
        return self._open[peer] >= self._most_of_one and not peer.startswith(ALIKE)


def _watch(streams: StreamInterceptor, meter: Meter) -> None:
    def count(_options: CallbackOptions) -> Iterable[Observation]:
        yield Observation(streams.open)

    def most(_options: CallbackOptions) -> Iterable[Observation]:
        yield Observation(streams.most)

    def refused(_options: CallbackOptions) -> Iterable[Observation]:
        yield Observation(streams.refused)

    meter.create_observable_up_down_counter(
        names.STREAMS, [count], unit="{stream}", description="The streams that are open."
    )
    meter.create_observable_up_down_counter(
        names.STREAMS_MAX, [most], unit="{stream}", description="The streams that there may be."
    )
    meter.create_observable_counter(
        names.STREAMS_REFUSED,
        [refused],
        unit="{stream}",
        description="The streams that were refused because there were as many as there may be.",
    )
