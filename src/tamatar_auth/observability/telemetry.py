"""The tracer and the meter of a process."""

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Thread

from opentelemetry.metrics import Meter
from opentelemetry.trace import Tracer

from tamatar_auth.config.addresses import ListenAddress

FLUSH_SECONDS = 0.8
"""Seconds that a shutdown waits for the collector. A server exits within its grace and 1 s."""


@dataclass(frozen=True, slots=True)
class Telemetry:
    """The tracer and the meter; None for a signal that is not exported."""

    tracer: Tracer | None = None
    meter: Meter | None = None
    metrics_address: ListenAddress | None = None
    """Where Prometheus reads the metrics, with the port that was bound."""
    close: Callable[[], object] | None = field(default=None, repr=False)

    def shutdown(self) -> None:
        """Send what is left and close the endpoint. Blocks for `FLUSH_SECONDS` at most."""
        if self.close is None:
            return
        # The SDK itself waits for up to 30 s.
        thread = Thread(target=self.close, name="close telemetry", daemon=True)
        thread.start()
        thread.join(FLUSH_SECONDS)
