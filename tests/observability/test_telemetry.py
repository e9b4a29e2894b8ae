"""Exporters of spans and metrics: a collector, Prometheus, or nothing at no cost."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import uuid4

import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_pb
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_pb
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

import tamatar_auth
from tamatar_auth.config.addresses import ListenAddress
from tamatar_auth.config.settings import Settings
from tamatar_auth.interceptors.registry import HandlerRegistry
from tamatar_auth.interceptors.telemetry import TelemetryInterceptor
from tamatar_auth.observability import telemetry as telemetry_module
from tamatar_auth.observability.telemetry import (
    ExporterConfig,
    Telemetry,
    TelemetryError,
    configure_telemetry,
)
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.engine import create_engine
from tamatar_auth.storage.instrumentation.queries import observe_statements
from tamatar_auth.storage.repositories.users import NewUser

CANARY = "canary-3b8e@example.com"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """The environment without the OpenTelemetry variables of the person who tests."""
    for name in os.environ:
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)
    # A stall of the machine must neither lose nor split the last export.
    monkeypatch.setattr(telemetry_module, "FLUSH_SECONDS", 30)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
    return monkeypatch


@contextlib.contextmanager
def configured(**given):
    telemetry = configure_telemetry(mine(**given))
    try:
        yield telemetry
    finally:
        telemetry.shutdown()


def mine(**given):
    """Return settings, with metrics on a free port."""
    return Settings.load(env_file=None, **({"metrics_listen": "127.0.0.1:0"} | given))


def page(telemetry):
    """Read the page that Prometheus reads."""
    with urllib.request.urlopen(f"http://{telemetry.metrics_address}/metrics") as answer:
        return answer.read().decode()


NOTHING = frozenset[str]()


class TestConfiguration:
    """Variables that choose exporters."""

    def test_disabled_telemetry_imports_no_sdk(self):
        program = """
import sys
from tamatar_auth.config.settings import Settings
from tamatar_auth.storage.instrumentation.queries import observe_statements
from tamatar_auth.interceptors.telemetry import TelemetryInterceptor
from tamatar_auth.observability.telemetry import Telemetry, configure_telemetry

assert configure_telemetry(Settings.load(env_file=None)) == Telemetry()
parts = {part for name in sys.modules for part in name.split(".")}
print(parts & {"sdk", "exporter", "prometheus_client"})
"""
        ended = subprocess.run(
            [sys.executable, "-c", program], env={}, capture_output=True, text=True, check=True
        )

        assert ended.stdout.strip() == "set()"

    @pytest.mark.parametrize("wish", [{"OTEL_TRACES_EXPORTER": "otlp"}, {}])
    def test_disabled_sdk_overrides_other_variables(self, environment, wish):
        environment.setenv("OTEL_SDK_DISABLED", "True")
        for name, value in wish.items():
            environment.setenv(name, value)

        assert configure_telemetry(mine(metrics_enabled=True)) == Telemetry()

    @pytest.mark.parametrize(
        ("variables", "spans", "metrics"),
        [
            ({}, NOTHING, NOTHING),
            ({"OTEL_TRACES_EXPORTER": "otlp"}, {"otlp"}, NOTHING),
            ({"OTEL_TRACES_EXPORTER": " console , otlp,"}, {"console", "otlp"}, NOTHING),
            ({"OTEL_METRICS_EXPORTER": "otlp"}, NOTHING, {"otlp"}),
            ({"OTEL_METRICS_EXPORTER": "prometheus"}, NOTHING, {"prometheus"}),
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:1"}, {"otlp"}, {"otlp"}),
            ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x:1"}, {"otlp"}, NOTHING),
            ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://x:1"}, NOTHING, {"otlp"}),
            (
                {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:1", "OTEL_METRICS_EXPORTER": "none"},
                {"otlp"},
                NOTHING,
            ),
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": "", "OTEL_TRACES_EXPORTER": ""}, NOTHING, NOTHING),
        ],
    )
    def test_standard_variables_choose_exporters(self, environment, variables, spans, metrics):
        for name, value in variables.items():
            environment.setenv(name, value)

        exporter_config = ExporterConfig.read(mine().telemetry)
        assert (exporter_config.spans, exporter_config.metrics) == (spans, metrics)
        assert ExporterConfig.read(mine(metrics_enabled=True).telemetry).metrics == {
            *metrics,
            "prometheus",
        }

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_METRICS_EXPORTER", "otlp,what"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "carrier pigeon"),
        ],
    )
    def test_invalid_telemetry_variable_is_named(self, environment, name, value):
        environment.setenv(name, value)

        with pytest.raises(TelemetryError, match=name):
            configure_telemetry(mine(metrics_enabled=True))

    def test_variable_refused_by_exporter_fails_start(self, environment):
        environment.setenv("OTEL_TRACES_EXPORTER", "otlp")
        environment.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        wish = mine(metrics_enabled=True, metrics_listen=f"127.0.0.1:{port}")

        with pytest.raises(TelemetryError, match="OTEL_EXPORTER_"):
            configure_telemetry(wish)

        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))

    def test_taken_metrics_port_fails_start(self):
        with configured(metrics_enabled=True) as first:
            taken = mine(metrics_enabled=True, metrics_listen=first.metrics_address)
            with pytest.raises(TelemetryError, match=str(first.metrics_address)):
                configure_telemetry(taken)

    @pytest.mark.parametrize("listen", ["unix:/tmp/x", "no-such-host.invalid:1", "203.0.113.1:1"])
    def test_metrics_address_of_other_machine_fails_start(self, listen):
        listen = ListenAddress.parse(listen)

        with pytest.raises(TelemetryError, match="TAMATAR_METRICS_LISTEN"):
            configure_telemetry(mine(metrics_enabled=True, metrics_listen=listen))


PROMETHEUS = {
    "rpc_server_call_duration_seconds_count": [
        'rpc_method="t.Users/Create"',
        'rpc_response_status_code="OK"',
    ],
    "db_client_operation_duration_seconds_count": [
        'db_collection_name="users"',
        'db_operation_name="INSERT"',
    ],
}


async def call(telemetry, settings):
    """Create a user on a server that is assembled like ours."""
    engine = create_engine(settings.database)
    observe_statements(
        engine, settings.telemetry.slow_query, tracer=telemetry.tracer, meter=telemetry.meter
    )
    database = Database(engine)

    async def create(_request, _context):
        async with database.transaction() as tx:
            await tx.users.add(NewUser(id=uuid4(), email=CANARY))
        return b""

    interceptor = TelemetryInterceptor(tracer=telemetry.tracer, meter=telemetry.meter)
    server = grpc.aio.server()
    answered = HandlerRegistry(server, [interceptor])
    handlers = {"Create": grpc.unary_unary_rpc_method_handler(create)}
    answered.add_registered_method_handlers("t.Users", handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await channel.unary_unary("/t.Users/Create")(b"")
    await server.stop(None)
    await engine.dispose()


class Collector(TraceServiceServicer, MetricsServiceServicer):
    """Receives exports over OTLP."""

    def __init__(self):
        self.spans, self.metrics = [], []

    async def Export(self, request, _context):
        is_trace = isinstance(request, trace_pb.ExportTraceServiceRequest)
        (self.spans if is_trace else self.metrics).append(request)
        answer = trace_pb.ExportTraceServiceResponse, metrics_pb.ExportMetricsServiceResponse
        return answer[not is_trace]()


@contextlib.asynccontextmanager
async def collecting_over_grpc():
    collector, server = Collector(), grpc.aio.server()
    add_TraceServiceServicer_to_server(collector, server)
    add_MetricsServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield collector, port
    await server.stop(None)


@contextlib.asynccontextmanager
async def collecting_over_http():
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path == "/v1/traces":
                collector.spans.append(trace_pb.ExportTraceServiceRequest.FromString(body))
            else:
                collector.metrics.append(metrics_pb.ExportMetricsServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield collector, server.server_port
        server.shutdown()


class TestExport:
    """Collectors and Prometheus."""

    def test_metrics_page_ends_with_shutdown(self):
        telemetry = configure_telemetry(mine(metrics_enabled=True))
        assert "process_cpu_seconds_total" in page(telemetry)
        telemetry.shutdown()
        telemetry.shutdown()

        with socket.socket() as probe:
            address = telemetry.metrics_address
            assert probe.connect_ex((address.host, address.port)) != 0

    async def test_prometheus_page_has_both_histograms_in_seconds(self, database, settings):
        with configured(metrics_enabled=True) as telemetry:
            await call(telemetry, settings)
            lines = (await asyncio.to_thread(page, telemetry)).splitlines()

        for name, labels in PROMETHEUS.items():
            counted = [line for line in lines if line.startswith(name)]
            (line,) = [line for line in counted if all(label in line for label in labels)]
            assert line.endswith(" 1.0")
        assert CANARY not in "\n".join(lines)

    @pytest.mark.parametrize(
        ("protocol", "collecting"),
        [("grpc", collecting_over_grpc), ("http/protobuf", collecting_over_http)],
    )
    async def test_collector_receives_spans_and_metrics(
        self, environment, database, settings, protocol, collecting
    ):
        async with collecting() as (collector, port):
            environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
            environment.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
            telemetry = configure_telemetry(mine())
            await call(telemetry, settings)
            await asyncio.to_thread(telemetry.shutdown)

        (request,) = collector.spans
        (part,) = request.resource_spans
        statement, commit, server = part.scope_spans[0].spans
        names = [statement.name, commit.name, server.name]
        assert names == ["INSERT users", "COMMIT", "t.Users/Create"]
        assert (statement.trace_id, statement.parent_span_id) == (server.trace_id, server.span_id)
        resource = {item.key: item.value.string_value for item in part.resource.attributes}
        assert resource["service.name"] == "tamatar-auth"
        assert resource["service.version"] == tamatar_auth.__version__
        assert resource["service.instance.id"]
        names = {
            metric.name
            for metrics in collector.metrics
            for part in metrics.resource_metrics
            for scope in part.scope_metrics
            for metric in scope.metrics
        }
        assert {"rpc.server.call.duration", "db.client.operation.duration"} <= names
        assert CANARY not in str(collector.spans) + str(collector.metrics)

    async def test_standard_variables_set_service_name_and_sampler(self, environment):
        async with collecting_over_grpc() as (collector, port):
            environment.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"http://127.0.0.1:{port}")
            environment.setenv("OTEL_SERVICE_NAME", "mine")
            environment.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_on")
            telemetry = configure_telemetry(mine())
            telemetry.tracer.start_span("seen").end()
            await asyncio.to_thread(telemetry.shutdown)

            environment.setenv("OTEL_TRACES_SAMPLER", "always_off")
            telemetry = configure_telemetry(mine())
            assert not telemetry.tracer.start_span("unseen").is_recording()
            await asyncio.to_thread(telemetry.shutdown)

        (request,) = collector.spans
        (part,) = request.resource_spans
        named = {item.key: item.value.string_value for item in part.resource.attributes}
        assert named["service.name"] == "mine"
