"""Telemetry of the service that stays in memory: spans, metrics and log lines."""

import contextlib
import io
import logging
from collections.abc import Iterator
from typing import Any

import structlog
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tamatar_auth.config.settings import Settings
from tamatar_auth.observability.logs import configure_logs
from tests.support.canaries import SUITE

LOGGERS = (None, "tamatar_auth", "tamatar_auth.audit", "alembic", "opentelemetry.util.re")


class Recording:
    """A tracer and a meter of OpenTelemetry's SDK, and what they recorded."""

    def __init__(self):
        self._exporter = InMemorySpanExporter()
        self._tracing = TracerProvider(shutdown_on_exit=False)
        self._tracing.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader()
        self._metering = MeterProvider([self._reader], shutdown_on_exit=False)
        self.tracer = self._tracing.get_tracer("test")
        self.meter = self._metering.get_meter("test")
        SUITE.record_later("spans and metrics", lambda: self.text)

    @property
    def spans(self):
        """The spans that have ended."""
        return self._exporter.get_finished_spans()

    def span(self, name):
        """The one span of this name."""
        (found,) = [span for span in self.spans if span.name == name]
        return found

    def points(self, name) -> list[Any]:
        """The data points of a metric; empty if nothing was recorded."""
        read = self._reader.get_metrics_data()
        parts = read.resource_metrics if read else []
        scopes = [scope for part in parts for scope in part.scope_metrics]
        metrics = [metric for scope in scopes for metric in scope.metrics if metric.name == name]
        return [point for metric in metrics for point in metric.data.data_points]

    @property
    def text(self):
        """All that was recorded, as text."""
        read = self._reader.get_metrics_data()
        return "\n".join([*(span.to_json() for span in self.spans), read.to_json() if read else ""])


@contextlib.contextmanager
def logged(settings: Settings, stream: io.StringIO | None = None) -> Iterator[io.StringIO]:
    """Log into a stream as the service would, while the block runs."""
    stream = io.StringIO() if stream is None else stream
    before = structlog.get_config()
    loggers = [logging.getLogger(name) for name in LOGGERS]
    handlers, levels = loggers[0].handlers[:], [logger.level for logger in loggers]
    loggers[0].handlers.clear()  # pytest's handlers fail on hostile lines
    configure_logs(settings, stream)
    try:
        yield stream
    finally:
        SUITE.record("the log of the service", stream.getvalue())
        logging.captureWarnings(capture=False)
        structlog.configure(**before)
        loggers[0].handlers[:] = handlers
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
