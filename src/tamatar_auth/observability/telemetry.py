"""The tracer and the meter of a process. OpenTelemetry's SDK is imported only if it exports."""

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Thread

import structlog
from opentelemetry.metrics import Meter
from opentelemetry.trace import Tracer

from tamatar_auth.config.addresses import ListenAddress
from tamatar_auth.config.settings import Settings
from tamatar_auth.observability.exporter_config import ExporterConfig

FLUSH_SECONDS = 0.8
"""Seconds that a shutdown waits for the collector. A server exits within its grace and 1 s."""


log = structlog.get_logger(__name__)


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


def configure_telemetry(settings: Settings, *, worker: int | None = None) -> Telemetry:
    """Set up the configured exporters, or raise `TelemetryError`.

    The exporters start threads: a process that forks must fork first.
    """
    exporter_config = ExporterConfig.read(settings.telemetry)
    if not exporter_config.spans and not exporter_config.metrics:
        return Telemetry()
    from tamatar_auth.observability import exporters  # noqa: PLC0415 - only here is the SDK worth its import

    telemetry = exporters.build_telemetry(
        exporter_config, environment=settings.environment, worker=worker
    )
    address = telemetry.metrics_address
    facts = {"spans": sorted(exporter_config.spans), "metrics": sorted(exporter_config.metrics)}
    log.info("telemetry", **facts, **({"metrics_address": str(address)} if address else {}))
    return telemetry
