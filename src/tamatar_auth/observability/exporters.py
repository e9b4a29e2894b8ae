"""OpenTelemetry's SDK and its exporters. Imported only if something is exported."""

import contextlib
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from pkgutil import resolve_name
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app

from tamatar_auth import __version__
from tamatar_auth.config.addresses import ListenAddress
from tamatar_auth.observability.telemetry import ExporterConfig, Telemetry, TelemetryError

INSTRUMENTATION_SCOPE = "tamatar_auth"

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


def build_telemetry(
    config: ExporterConfig, *, environment: str, worker: int | None = None
) -> Telemetry:
    """Set up the configured exporters, or none of them and raise `TelemetryError`."""
    resource = _resource(environment, worker)
    endpoint = tracer = meter = None
    with contextlib.ExitStack() as cleanup:
        if "prometheus" in config.metrics:
            endpoint = MetricsEndpoint(config.metrics_listen, shared=worker is not None)
            cleanup.callback(endpoint.close)
        if config.metrics:
            readers = _readers(config, endpoint)
            meter_provider = MeterProvider(readers, resource, shutdown_on_exit=False)
            cleanup.callback(meter_provider.shutdown)
            meter = meter_provider.get_meter(INSTRUMENTATION_SCOPE, __version__)
        if config.spans:
            tracer_provider = TracerProvider(resource=resource, shutdown_on_exit=False)
            cleanup.callback(tracer_provider.shutdown)
            for exporter in _exporters(config.spans, _SPAN_EXPORTERS, config.spans_protocol):
                tracer_provider.add_span_processor(BatchSpanProcessor(exporter))
            tracer = tracer_provider.get_tracer(INSTRUMENTATION_SCOPE, __version__)
        address = endpoint.address if endpoint else None
        return Telemetry(tracer, meter, address, close=cleanup.pop_all().close)


class MetricsEndpoint:
    """The page at `/metrics` that Prometheus reads, served by a thread of its own.

    `shared` lets a worker and its replacement listen on one port for as long as both run.
    """

    def __init__(self, listen: ListenAddress, *, shared: bool) -> None:
        if listen.path:
            raise TelemetryError("TAMATAR_METRICS_LISTEN: must be host:port")
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        try:
            self._server = _metrics_server(listen, self.registry, shared=shared)
        except OSError as error:
            raise TelemetryError(
                f"TAMATAR_METRICS_LISTEN: metrics cannot be served on {listen}"
                f" ({error.strerror or 'no such address'})."
            ) from None
        self.address = listen._replace(port=self._server.server_port)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop serving and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _metrics_server(
    listen: ListenAddress, registry: CollectorRegistry, *, shared: bool
) -> WSGIServer:
    """Bind a server that serves the metrics of a registry."""
    resolved = socket.getaddrinfo(
        listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    family, _, _, _, sockaddr = resolved[0]

    class Server(ThreadingMixIn, WSGIServer):
        address_family = family
        allow_reuse_port = shared
        daemon_threads = True

        def handle_error(self, _request: object, _client: object) -> None:
            """Report an error, unless the scraper has left."""
            if not isinstance(sys.exc_info()[1], OSError):
                thread = threading.current_thread()
                thread.name = "metrics request"
                threading.excepthook(threading.ExceptHookArgs([*sys.exc_info(), thread]))

    port = listen.port
    return make_server(str(sockaddr[0]), port, make_wsgi_app(registry), Server, _SilentHandler)


class _SilentHandler(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Do not log requests for the page."""


def _resource(environment: str, worker: int | None) -> Resource:
    """Describe this process; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win."""
    defaults = {
        "service.name": "tamatar-auth",
        "service.version": __version__,
        "deployment.environment.name": environment,
    }
    if worker is not None:
        # Workers of one name would overwrite each other's counters.
        defaults["service.instance.id"] = f"{socket.gethostname()}-{worker}"
    return Resource.create({**defaults, **OTELResourceDetector().detect().attributes})


def _readers(config: ExporterConfig, endpoint: MetricsEndpoint | None) -> list[MetricReader]:
    names = config.metrics - {"prometheus"}
    readers: list[MetricReader] = [
        PeriodicExportingMetricReader(exporter)
        for exporter in _exporters(names, _METRIC_EXPORTERS, config.metrics_protocol)
    ]
    if endpoint is not None:
        readers.append(PrometheusMetricReader(scope_info_enabled=False, registry=endpoint.registry))
    return readers


def _exporters(names: AbstractSet[str], classes: Mapping[str, str], protocol: str) -> Iterator[Any]:
    """Build exporters. They read their OTEL_ variables themselves."""
    for name in sorted(names):
        try:
            yield resolve_name(classes[protocol if name == "otlp" else name])()
        except Exception as error:  # noqa: BLE001 - exporters raise any exception
            raise TelemetryError(f"An OTEL_EXPORTER_ variable cannot be used: {error}") from None
