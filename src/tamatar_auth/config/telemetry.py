"""Settings of logs and metrics. Exporters of spans and metrics also obey the OTEL_ variables."""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AliasChoices, BeforeValidator, Field

from tamatar_auth.config.addresses import ListenAddress
from tamatar_auth.config.durations import Duration, between
from tamatar_auth.config.groups import SettingsGroup
from tamatar_auth.config.types import Address, empty_as_none


class TelemetrySettings(SettingsGroup):
    """Logs and metrics. The OTEL_ variables of OpenTelemetry's specification are read too."""

    metrics_enabled: Annotated[
        bool,
        Field(
            validation_alias=AliasChoices("TAMATAR_METRICS_ENABLED", "METRICS_ENABLED"),
            description="Whether Prometheus can read metrics. METRICS_ENABLED is read too.",
        ),
    ] = False
    metrics_listen: Annotated[
        Address,
        Field(
            validation_alias="TAMATAR_METRICS_LISTEN",
            description="The address that serves the metrics: host:port. Each further worker uses"
            " the next port.",
        ),
    ] = ListenAddress.parse("127.0.0.1:9464")
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"] | None,
        BeforeValidator(empty_as_none),
        Field(
            validation_alias="TAMATAR_LOG_LEVEL",
            description="The lowest level that is logged. Unless set, debug in development and"
            " info in production.",
        ),
    ] = None
    log_format: Annotated[
        Literal["auto", "json", "console"],
        Field(
            validation_alias="TAMATAR_LOG_FORMAT",
            description="The format of log lines. auto means console on a terminal, json"
            " elsewhere.",
        ),
    ] = "auto"
    slow_query: Annotated[
        Duration,
        between(timedelta(milliseconds=1), timedelta(hours=1)),
        Field(
            validation_alias="TAMATAR_SLOW_QUERY",
            description="A statement that takes longer is logged as a warning.",
        ),
    ] = timedelta(seconds=1)
