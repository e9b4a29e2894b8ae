"""OpenTelemetry's SDK and its exporters. Imported only where something is exported."""

import contextlib
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from pkgutil import resolve_name
from typing import Any

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

from tamatar_auth import __version__
from tamatar_auth.addresses import ListenAddress
from tamatar_auth.telemetry import Telemetry, TelemetryError, Wanted

SCOPE = "tamatar_auth"

_SPAN_EXPORTERS = {
    "console": "opentelemetry.sdk.trace.export:ConsoleSpanExporter",
    "grpc": "opentelemetry.exporter.otlp.proto.grpc.trace_exporter:OTLPSpanExporter",
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http.trace_exporter:OTLPSpanExporter",
}
_METRIC_EXPORTERS = {
    "console": "opentelemetry.sdk.metrics.export:ConsoleMetricExporter",
    "grpc": "opentelemetry.exporter.otlp.proto.grpc.metric_exporter:OTLPMetricExporter",
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http.metric_exporter:OTLPMetricExporter",
}


def set_up(wanted: Wanted, *, environment: str) -> Telemetry:
    """Set up what is wanted, all or nothing, or raise `TelemetryError`."""
    resource = _resource(environment)
    endpoint = tracer = meter = None
    with contextlib.ExitStack() as closing:
        if "prometheus" in wanted.metrics:
            endpoint = MetricsEndpoint(wanted.metrics_listen)
            closing.callback(endpoint.close)
        if wanted.metrics:
            metering = MeterProvider(_readers(wanted, endpoint), resource, shutdown_on_exit=False)
            closing.callback(metering.shutdown)
            meter = metering.get_meter(SCOPE, __version__)
        if wanted.spans:
            tracing = TracerProvider(resource=resource, shutdown_on_exit=False)
            closing.callback(tracing.shutdown)
            for exporter in _exporters(wanted.spans, _SPAN_EXPORTERS, wanted.spans_protocol):
                tracing.add_span_processor(BatchSpanProcessor(exporter))
            tracer = tracing.get_tracer(SCOPE, __version__)
        address = endpoint.address if endpoint else None
        return Telemetry(tracer, meter, address, close=closing.pop_all().close)


class MetricsEndpoint:
    """The page that Prometheus reads, at `/metrics`, served by a thread of its own."""

    def __init__(self, listen: ListenAddress) -> None:
        if listen.path:
            raise TelemetryError("TAMATAR_METRICS_LISTEN: must be host:port")
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        try:
            self._server, self._thread = start_http_server(
                listen.port, addr=listen.host, registry=self.registry
            )
        except OSError as error:
            raise TelemetryError(
                f"TAMATAR_METRICS_LISTEN: metrics cannot be offered on {listen}"
                f" ({error.strerror or 'no such address'})."
            ) from None
        self.address = listen._replace(port=self._server.server_port)

    def close(self) -> None:
        """Stop serving and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _resource(environment: str) -> Resource:
    """Say what speaks; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win."""
    ours = {
        "service.name": "tamatar-auth",
        "service.version": __version__,
        "deployment.environment.name": environment,
    }
    return Resource.create({**ours, **OTELResourceDetector().detect().attributes})


def _readers(wanted: Wanted, endpoint: MetricsEndpoint | None) -> list[MetricReader]:
    names = wanted.metrics - {"prometheus"}
    readers: list[MetricReader] = [
        PeriodicExportingMetricReader(exporter)
        for exporter in _exporters(names, _METRIC_EXPORTERS, wanted.metrics_protocol)
    ]
    if endpoint is not None:
        readers.append(PrometheusMetricReader(scope_info_enabled=False, registry=endpoint.registry))
    return readers


def _exporters(names: AbstractSet[str], classes: Mapping[str, str], protocol: str) -> Iterator[Any]:
    """Build exporters as the variables say, which the exporters read by themselves."""
    for name in sorted(names):
        try:
            yield resolve_name(classes[protocol if name == "otlp" else name])()
        except Exception as error:  # noqa: BLE001 - they raise what they like
            raise TelemetryError(f"An OTEL_EXPORTER_ variable cannot be used: {error}") from None
