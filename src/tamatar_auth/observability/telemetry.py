"""Whether spans and metrics are made, and where they go: settings and the standard OTEL_ variables.

Where nobody asks for them nothing of OpenTelemetry's SDK is imported, and `Telemetry` is empty.
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

FLUSH_SECONDS = 0.8
"""How long a shutdown waits for the collector: a server ends within its grace and a second."""

log = structlog.get_logger(__name__)

_PROTOCOLS = ("grpc", "http/protobuf")


class TelemetryError(OperatorError):
    """Telemetry cannot be set up as the settings or the OTEL_ variables say."""


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What spans and metrics are made with; None for what nobody asked for."""

    tracer: Tracer | None = None
    meter: Meter | None = None
    metrics_address: ListenAddress | None = None
    """Where Prometheus finds the metrics, with the port that was really bound."""
    close: Callable[[], object] | None = field(default=None, repr=False)

    def shutdown(self) -> None:
        """Send what is left and close the endpoint. Blocks, for `FLUSH_SECONDS` at most."""
        if self.close is None:
            return
        # Left alone, the SDK waits for up to 30 s.
        thread = Thread(target=self.close, name="close telemetry", daemon=True)
        thread.start()
        thread.join(FLUSH_SECONDS)


@dataclass(frozen=True, slots=True)
class ExporterConfig:
    """Which exporters are to be set up."""

    spans: AbstractSet[str]
    metrics: AbstractSet[str]
    spans_protocol: str
    metrics_protocol: str
    metrics_listen: ListenAddress

    @classmethod
    def read(cls, settings: Settings) -> Self:
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


def configure_telemetry(settings: Settings, *, worker: int | None = None) -> Telemetry:
    """Set up what the settings and the OTEL_ variables ask for, or raise `TelemetryError`.

    Threads are started: a process that forks does so before.
    """
    exporter_config = ExporterConfig.read(settings)
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


def _exporters(signal: str, allowed: AbstractSet[str]) -> AbstractSet[str]:
    """Name the exporters of a signal; an endpoint alone means OTLP."""
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
    """Read a variable; one that is empty counts as not set, as the specification says."""
    return os.environ.get(name, "").strip() or None
