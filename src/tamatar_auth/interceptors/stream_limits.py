"""Bounds the streams that a process answers."""

from collections import Counter
from typing import Any

from grpc.aio import ServicerContext
from opentelemetry.metrics import Meter

from tamatar_auth.errors import ServerBusy
from tamatar_auth.interceptors.base import Behaviour, Interceptor, Method
from tamatar_auth.interceptors.in_flight import BOUNDED_SERVICES
from tamatar_auth.observability import semconv
from tamatar_auth.observability.instruments import observe_counter, observe_gauge

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
    observe_gauge(
        meter,
        semconv.STREAMS,
        lambda: streams.open_streams,
        unit="{stream}",
        description="The streams that are open.",
    )
    observe_gauge(
        meter,
        semconv.STREAMS_MAX,
        lambda: streams.limit,
        unit="{stream}",
        description="The streams that may be open at once.",
    )
    observe_counter(
        meter,
        semconv.STREAMS_REFUSED,
        lambda: streams.refused,
        unit="{stream}",
        description="The streams that were rejected because the limit was reached.",
    )
