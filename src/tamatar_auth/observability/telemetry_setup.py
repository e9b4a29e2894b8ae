"""Sets up spans and metrics. OpenTelemetry's SDK is imported only if something is exported."""

import structlog

from tamatar_auth.config.settings import Settings
from tamatar_auth.observability.exporter_config import ExporterConfig
from tamatar_auth.observability.telemetry import Telemetry

log = structlog.get_logger(__name__)


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
    configured = {"metrics_address": str(address)} if address else {}
    log.info(
        "telemetry",
        spans=sorted(exporter_config.spans),
        metrics=sorted(exporter_config.metrics),
        **configured,
    )
    return telemetry
