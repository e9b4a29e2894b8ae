"""Log lines: one JSON object a line, whatever the input, or text for a terminal.

A module logs through `structlog.get_logger(__name__)`. Records of libraries and warnings are
formatted the same way. A line names the trace and the span of its call.
"""

import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import structlog
from opentelemetry.trace import format_span_id, format_trace_id
from structlog.typing import EventDict, Processor, WrappedLogger

from tamatar_auth.config.settings import Settings
from tamatar_auth.config.sources import REMOVED_VARIABLES, Sources
from tamatar_auth.observability import tracing
from tamatar_auth.observability.redaction import (
    describe_error,
    format_error,
    json_value,
    redact_error_texts,
)

AUDIT_LOGGER = "tamatar_auth.audit"

_HANDLER_NAME = "tamatar_auth"

_MIN_LEVELS = {
    None: logging.WARNING,  # libraries
    "alembic": logging.INFO,  # the progress of migrations
    "opentelemetry.util.re": logging.ERROR,  # its warnings quote headers, which may be credentials
}
"""The lowest level that is logged, by logger."""


def configure_logs(
    settings: Settings, stream: TextIO | None = None, *, worker: int | None = None
) -> None:
    """Write log lines to a stream, or to standard error if none is given.

    The lines of a worker have its number and its process id.
    """
    stream = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(stream)
    handler.set_name(_HANDLER_NAME)
    worker_fields = {} if worker is None else {"worker": worker, "pid": os.getpid()}
    renderers = _renderers(settings.telemetry.log_format, stream)
    handler.setFormatter(LogFormatter(renderers, worker_fields))
    root = logging.getLogger()
    for previous in [known for known in root.handlers if known.get_name() == _HANDLER_NAME]:
        root.removeHandler(previous)
    root.addHandler(handler)
    _set_levels(logging.getLevelNamesMapping()[settings.effective_log_level.upper()])
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


class LogFormatter(structlog.stdlib.ProcessorFormatter):
    """Formats the events of structlog and the records of libraries. It never raises."""

    def __init__(
        self,
        renderers: Sequence[Processor] | None = None,
        worker_fields: Mapping[str, int] | None = None,
    ) -> None:
        def add_worker_fields(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
            return {**event, **(worker_fields or {})}

        processors: list[Processor] = [
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            _interpolate,
            add_worker_fields,
            structlog.contextvars.merge_contextvars,
            _add_trace,
            _add_exception,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _to_json_values,
            *(renderers or [_render_json]),
        ]
        super().__init__(processors=processors, use_get_message=False, pass_foreign_args=True)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        try:
            return super().format(record)
        except Exception as error:  # noqa: BLE001 - a log line must not fail a call
            failed = {"event": "a log line could not be written", "why": type(error).__qualname__}
            return json.dumps({"level": "error", "logger": record.name, **failed})


def warn_of_unknown_settings() -> None:
    """Log a warning for each variable that looks like a setting and is none."""
    log, sources = structlog.get_logger(__name__), Sources(Settings)
    for variable, place, why in sources.unknown():
        log.warning("setting is not known", variable=variable, place=place, why=why)
    for variable, place in sources.removed():
        instead = REMOVED_VARIABLES[variable.upper()]
        log.warning("setting was removed", variable=variable, place=place, instead=instead)


def _set_levels(level: int) -> None:
    """Set the level of each logger. Audit lines are written at every level."""
    logging.getLogger("tamatar_auth").setLevel(level)
    logging.getLogger(AUDIT_LOGGER).setLevel(min(level, logging.INFO))
    for name, minimum in _MIN_LEVELS.items():
        logging.getLogger(name).setLevel(max(level, minimum))


def _renderers(log_format: str, stream: TextIO) -> Sequence[Processor]:
    is_terminal = stream.isatty()
    if log_format == "json" or (log_format == "auto" and not is_terminal):
        return [_render_json]
    console = structlog.dev.ConsoleRenderer(
        colors=is_terminal,
        repr_native_str=True,
        exception_formatter=structlog.dev.plain_traceback,
        sort_keys=False,
    )
    return [_escape_event, console]


def _interpolate(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Put the positional arguments into the message.

    structlog's own processor raises if they do not fit, and it writes the texts of exceptions.
    """
    record: logging.LogRecord = event["_record"]
    message = event["event"] if event["_from_structlog"] else record.msg
    event["event"] = _message(message, event.pop("positional_args", ()))
    return event


def _message(message: object, values: Any) -> object:
    if not values:
        return message
    try:
        if isinstance(values, Mapping):
            return str(message) % {
                name: _describe_if_error(value) for name, value in values.items()
            }
        return str(message) % tuple(_describe_if_error(value) for value in values)
    except (LookupError, TypeError, ValueError):
        return message


def _describe_if_error(value: object) -> object:
    return describe_error(value) if isinstance(value, BaseException) else value


def _add_trace(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Add the ids of the current span, or the caller's if this service makes no spans."""
    span = tracing.current_span_context()
    if span.is_valid:
        event["trace_id"] = format_trace_id(span.trace_id)
        event["span_id"] = format_span_id(span.span_id)
    return event


def _add_exception(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Add the traceback without its secrets, and remove the secrets from the message."""
    exc_info = event.pop("exc_info", None)
    if exc_info is True:
        exc_info = sys.exc_info()
    error = exc_info[1] if isinstance(exc_info, tuple) else exc_info
    if isinstance(error, BaseException):
        if isinstance(event["event"], str):
            event["event"] = redact_error_texts(event["event"], error)
        event["exception"] = format_error(error)
    return event


def _to_json_values(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    exception = event.pop("exception", None)
    values = {str(key): json_value(value) for key, value in event.items()}
    return values if exception is None else {**values, "exception": exception}


def _render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    first = {key: event.pop(key) for key in ("timestamp", "level", "logger", "event")}
    # JSON leaves DEL unescaped, and terminals obey it.
    return json.dumps({**first, **event}, allow_nan=False).replace("\x7f", "\\u007f")


def _escape_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Escape control characters in the message. The console renderer escapes only values."""
    event["event"] = _escape(str(event["event"]))
    if "exception" in event:
        event["exception"] = _escape(event["exception"], keep="\n")
    return event


def _escape(text: str, keep: str = "") -> str:
    return "".join(
        char if char.isprintable() or char in keep else repr(char)[1:-1] for char in text
    )
