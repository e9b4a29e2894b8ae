"""Bounds the streams that a process answers."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from grpc.aio import ServicerContext
from opentelemetry.metrics import CallbackOptions, Meter, Observation

from tamatar_auth.errors import ServerBusy
from tamatar_auth.interceptors.base import Behaviour, Interceptor, Method
from tamatar_auth.interceptors.in_flight import BOUNDED_SERVICES
from tamatar_auth.observability import semconv

UNIX_SOCKET_PEER = "unix:"
"""What gRPC calls the other end of every connection to a unix socket."""


class StreamLimitInterceptor(Interceptor):
    """Refuses a stream of ours when there are many, or many of its connection.

    They last: without a bound for connections, one client that forgets to end its streams
    would lock out all others.
    """

    def __init__(self, limit: int, limit_per_connection: int, meter: Meter | None = None) -> None:
        self.limit = limit
        self.refused = 0
        self._limit_per_connection = limit_per_connection
        self._streams_by_peer: Counter[str] = Counter()
        """How many streams each connection has."""
        if meter is not None:
            _register_metrics(self, meter)

    @property
    def open_streams(self) -> int:
        """How many streams there are."""
        return self._streams_by_peer.total()

    def wrap(self, behaviour: Behaviour, method: Method) -> Behaviour:
        """Count the streams of a behaviour that answers some."""
        if not method.response_streaming or not method.service.startswith(BOUNDED_SERVICES):
            return behaviour

        async def bounded(request: Any, context: ServicerContext[Any, Any]) -> Any:
            peer = str(context.peer())
            if self._is_full(peer):
                self.refused += 1
                raise ServerBusy
            self._streams_by_peer[peer] += 1
            try:
                return await behaviour(request, context)
            finally:
                self._streams_by_peer[peer] -= 1
                if not self._streams_by_peer[peer]:
                    del self._streams_by_peer[peer]

        return bounded

    def _is_full(self, peer: str) -> bool:
        if self.open_streams >= self.limit:
            return True
        return self._streams_by_peer[peer] >= self._limit_per_connection and not peer.startswith(
            UNIX_SOCKET_PEER
        )


def _register_metrics(streams: StreamLimitInterceptor, meter: Meter) -> None:
    def count(_options: CallbackOptions) -> Iterable[Observation]:
        yield Observation(streams.open_streams)

    def limit(_options: CallbackOptions) -> Iterable[Observation]:
        yield Observation(streams.limit)

    def refused(_options: CallbackOptions) -> Iterable[Observation]:
        yield Observation(streams.refused)

    meter.create_observable_up_down_counter(
        semconv.STREAMS, [count], unit="{stream}", description="The streams that are open."
    )
    meter.create_observable_up_down_counter(
        semconv.STREAMS_MAX, [limit], unit="{stream}", description="The streams that there may be."
    )
    meter.create_observable_counter(
        semconv.STREAMS_REFUSED,
        [refused],
        unit="{stream}",
        description="The streams that were refused because there were as many as there may be.",
    )
