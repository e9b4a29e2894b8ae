"""Limits the open streams of a process, and of each connection."""

from collections import Counter
from typing import Any

from opentelemetry.metrics import Meter

from tamatar_auth.errors import ServerBusy
from tamatar_auth.interceptors.base import Behaviour, Context, Interceptor, Method, peer_name
from tamatar_auth.interceptors.in_flight import BOUNDED_SERVICES
from tamatar_auth.observability import semconv
from tamatar_auth.observability.instruments import observe_counter, observe_gauge

OPEN_STREAMS = 2000
"""Streams of other services, such as Watch of health, that a process holds. Strangers may open
them, so they do not count with ours. The first stream of a connection is always admitted, because
gRPC's clients send no calls on a connection whose health they cannot watch. gRPC bounds the
connections."""

OPEN_STREAMS_PER_CONNECTION = 10
"""Streams of other services on one connection. A client watches the health of a few services."""

UNIX_SOCKET_PEER = "unix:"
"""The peer name of every connection to a unix socket."""


class StreamLimitInterceptor(Interceptor):
    """Rejects streams beyond the limits: those of our services, or those of all others.

    Streams last. Without a limit for each connection, one client that never ends its streams
    would lock out all others.
    """

    def __init__(
        self,
        limit: int,
        limit_per_connection: int,
        meter: Meter | None = None,
        *,
        of_other_services: bool = False,
    ) -> None:
        self.limit = limit
        self._of_other_services = of_other_services
        self.refused = 0
        self._limit_per_connection = limit_per_connection
        self._streams_by_peer: Counter[str] = Counter()
        """The number of open streams of each connection."""
        if meter is not None:
            _register_metrics(self, meter)

    @property
    def open_streams(self) -> int:
        """The number of open streams."""
        return self._streams_by_peer.total()

    def wrap(self, behaviour: Behaviour, method: Method) -> Behaviour:
        """Count the streams of a behaviour that streams its responses."""
        is_other = not method.service.startswith(BOUNDED_SERVICES)
        if not method.response_streaming or is_other != self._of_other_services:
            return behaviour

        async def bounded(request: Any, context: Context) -> Any:
            peer = peer_name(context)
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
        if self._of_other_services and not self._streams_by_peer[peer]:
            return False
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
