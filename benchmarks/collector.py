"""A collector of spans that only counts them."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

SAMPLING_RATIO = 0.01
"""The fraction of calls that is traced."""


class Collector(TraceServiceServicer):
    """Counts the spans of calls, and ignores those of statements."""

    def __init__(self) -> None:
        self.calls = 0
        self.port = 0

    def Export(self, request: Any, context: Any) -> Any:
        """Count the spans of calls."""
        del context
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.calls += sum(span.kind == span.SPAN_KIND_SERVER for span in scope.spans)
        return pb.ExportTraceServiceResponse()

    @property
    def settings(self) -> dict[str, str]:
        """Settings of a server that records metrics, and spans of some calls."""
        return {
            "TAMATAR_METRICS_ENABLED": "true",
            "TAMATAR_METRICS_LISTEN": "127.0.0.1:0",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": str(SAMPLING_RATIO),
        }


@contextlib.contextmanager
def running_collector() -> Iterator[Collector]:
    """Run a collector while the block runs."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    add: Any = add_TraceServiceServicer_to_server
    add(collector, server)
    collector.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()
