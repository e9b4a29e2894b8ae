"""The tracer and the meter of a process, by its settings and the standard OTEL_ variables.

OpenTelemetry's SDK is imported only if something is exported.
"""

import os
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from threading import Thread
from typing import Self

import structlog
from opentelemetry.metrics import Meter
from opentelemetry.trace import Tracer

from tamatar_auth.config.addresses import ListenAddress
from tamatar_auth.config.errors import OperatorError
from tamatar_auth.config.settings import Settings
from tamatar_auth.config.telemetry import TelemetrySettings

FLUSH_SECONDS = 0.8
"""Seconds that a shutdown waits for the collector. A server exits within its grace and 1 s."""

_PROTOCOLS = ("grpc", "http/protobuf")

log = structlog.get_logger(__name__)


class TelemetryError(OperatorError):
    """A setting or an OTEL_ variable of telemetry cannot be used."""


@dataclass(frozen=True, slots=True)
class ExporterConfig:
    """The exporters of spans and metrics, by their names in the OTEL_ variables."""

    spans: AbstractSet[str]
    metrics: AbstractSet[str]
    spans_protocol: str
    metrics_protocol: str
    metrics_listen: ListenAddress

    @classmethod
    def read(cls, settings: TelemetrySettings) -> Self:
        """Read the settings and the environment, or raise `TelemetryError`.

        OTEL_SDK_DISABLED=true turns everything off, the endpoint for Prometheus too.
        """
        if (_read_variable("OTEL_SDK_DISABLED") or "").lower() == "true":
            return cls(set(), set(), *_PROTOCOLS, metrics_listen=settings.metrics_listen)
        metrics = _exporters("METRICS", {"otlp", "console", "prometheus"})
        if settings.metrics_enabled:
            metrics |= {"prometheus"}
        return cls(
            spans=_exporters("TRACES", {"otlp", "console"}),
            metrics=metrics,
            spans_protocol=_protocol("TRACES"),
            metrics_protocol=_protocol("METRICS"),
            metrics_listen=settings.metrics_listen,
        )


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
    config = ExporterConfig.read(settings.telemetry)
    if not config.spans and not config.metrics:
        return Telemetry()
    from tamatar_auth.observability import exporters  # noqa: PLC0415 - only here is the SDK worth its import

    telemetry = exporters.build_telemetry(config, environment=settings.environment, worker=worker)
    address = telemetry.metrics_address
    facts = {"spans": sorted(config.spans), "metrics": sorted(config.metrics)}
    log.info("telemetry", **facts, **({"metrics_address": str(address)} if address else {}))
    return telemetry


def _exporters(signal: str, allowed: AbstractSet[str]) -> AbstractSet[str]:
    """Return the exporters of a signal; an endpoint without an exporter means OTLP."""
    name = f"OTEL_{signal}_EXPORTER"
    value = _read_variable(name)
    if value is None:
        endpoint = f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"
        configured = _read_variable("OTEL_EXPORTER_OTLP_ENDPOINT") or _read_variable(endpoint)
        return {"otlp"} if configured else set()
    exporters = {part.strip() for part in value.split(",")} - {"", "none"}
    if not exporters <= allowed:
        raise TelemetryError(f"{name}: must be none or some of {', '.join(sorted(allowed))}")
    return exporters


def _protocol(signal: str) -> str:
    name = f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL"
    protocol = (
        _read_variable(name) or _read_variable("OTEL_EXPORTER_OTLP_PROTOCOL") or _PROTOCOLS[0]
    )
    if protocol not in _PROTOCOLS:
        raise TelemetryError(
            f"{name} or OTEL_EXPORTER_OTLP_PROTOCOL: must be {' or '.join(_PROTOCOLS)}"
        )
    return protocol


def _read_variable(name: str) -> str | None:
    """Return the value of a variable. The specification treats an empty one as unset."""
    return os.environ.get(name, "").strip() or None
