"""Settings of logs and metrics. Exporters of spans and metrics also obey the OTEL_ variables."""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AliasChoices, BeforeValidator, Field

from tamatar_auth.config.addresses import ListenAddress
from tamatar_auth.config.groups import SettingsGroup
from tamatar_auth.config.types import Address, Duration, between, empty_as_none


class TelemetrySettings(SettingsGroup):
    """Logs and metrics. The OTEL_ variables of OpenTelemetry's specification are read too."""

    metrics_enabled: bool = Field(
        default=False, validation_alias=AliasChoices("TAMATAR_METRICS_ENABLED", "METRICS_ENABLED")
    )
    """Whether Prometheus can read metrics. METRICS_ENABLED is read too."""
    metrics_listen: Address = ListenAddress.parse("127.0.0.1:9464")
    """The address that serves the metrics: host:port. Each further worker uses the next port."""
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"] | None, BeforeValidator(empty_as_none)
    ] = None
    """The lowest level that is logged. Unless set, debug in development and info in production."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """The format of log lines. auto means console on a terminal, json elsewhere."""
    slow_query: Annotated[Duration, between(timedelta(milliseconds=1), timedelta(hours=1))] = (
        timedelta(seconds=1)
    )
    """A statement or COMMIT that takes longer is logged as a warning."""
