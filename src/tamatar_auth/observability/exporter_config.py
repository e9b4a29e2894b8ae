"""Which exporters are set up: from the settings and the standard OTEL_ variables."""

import os
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Self

from tamatar_auth.config.addresses import ListenAddress
from tamatar_auth.config.errors import OperatorError
from tamatar_auth.config.telemetry import TelemetrySettings

_PROTOCOLS = ("grpc", "http/protobuf")


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
