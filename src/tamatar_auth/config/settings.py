"""All settings: read once from `TAMATAR_*` variables or a `.env` file, then passed down.

A wrong setting ends the start with its variable, its place and its rule. The value of a
secret is never shown. The settings of a subject are a group with a module of its own; this
module has those that concern the process, and the rules between groups.
"""

from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, model_validator

from tamatar_auth.config.addresses import ListenAddress
from tamatar_auth.config.database import DatabaseSettings
from tamatar_auth.config.errors import SettingsError
from tamatar_auth.config.groups import SettingsGroup, conflict_error
from tamatar_auth.config.lifetimes import RetentionSettings, SessionSettings, UserTokenSettings
from tamatar_auth.config.limits import LimitSettings
from tamatar_auth.config.passwords import PasswordSettings
from tamatar_auth.config.sources import ENV_FILE, Sources
from tamatar_auth.config.telemetry import TelemetrySettings
from tamatar_auth.config.tls import TlsSettings
from tamatar_auth.config.types import (
    Addresses,
    Duration,
    OptionalAddress,
    OptionalFile,
    OptionalSecret,
    SigningKey,
    between,
)

MAX_PORT = 65535
MIN_PRODUCTION_BCRYPT_COST = 10
"""The lowest work factor for bcrypt that OWASP accepts."""


class Settings(SettingsGroup):
    """The environment of the process, its addresses, its files and its shutdown."""

    environment: Literal["development", "production"] = "development"
    """The environment of the process. Production requires its secrets."""
    listen: Addresses = (ListenAddress.parse("127.0.0.1:50051"),)
    """The addresses that serve calls: host:port or unix:path, separated by commas."""
    health_listen: OptionalAddress = None
    """An address that serves health only, without TLS and to any caller, for the probes of an
    orchestrator: host:port."""
    workers: int = Field(default=1, ge=1, le=64)
    """How many processes serve calls. They share the ports. Each has its own pool of connections
    and its own metrics."""
    callers_file: OptionalFile = None
    """The callers and their roles (TOML; `tamatar-auth caller add` writes it). Unless set, every
    caller on this machine is an admin."""
    page_token_key: SigningKey = None
    """The key that signs page tokens: at least 32 characters, the same in every replica. Unless
    set, random in development."""
    seed_admin_password: OptionalSecret = None
    """The password that `seed` sets for the administrator."""
    drain_delay: Annotated[Duration, between(timedelta(0), timedelta(minutes=1))] = timedelta(
        milliseconds=200
    )
    """How long a stopping server reports NOT_SERVING before it closes its ports."""
    shutdown_grace: Annotated[Duration, between(timedelta(0), timedelta(minutes=5))] = timedelta(
        seconds=10
    )
    """How long calls in flight may take to finish when the server stops."""

    database: DatabaseSettings = DatabaseSettings()
    tls: TlsSettings = TlsSettings()
    sessions: SessionSettings = SessionSettings()
    passwords: PasswordSettings = PasswordSettings()
    user_tokens: UserTokenSettings = UserTokenSettings()
    limits: LimitSettings = LimitSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    retention: RetentionSettings = RetentionSettings()

    @model_validator(mode="after")
    def _exposed_addresses_are_secured(self) -> Self:
        exposed = [str(address) for address in self.listen if not address.is_local]
        required = {
            "TAMATAR_TLS_CERTIFICATE_FILE": self.tls.certificate_file,
            "TAMATAR_TLS_KEY_FILE": self.tls.key_file,
            "TAMATAR_CALLERS_FILE": self.callers_file,
        }
        missing = [variable for variable, file in required.items() if file is None]
        if exposed and missing:
            raise conflict_error(
                "TAMATAR_LISTEN",
                f"{', '.join(exposed)} can be reached from other machines:"
                f" set {', '.join(missing)}, or use a loopback address or a unix socket",
            )
        return self

    @model_validator(mode="after")
    def _production_has_its_secrets(self) -> Self:
        if self.environment != "production":
            return self
        missing = []
        if self.page_token_key is None:
            missing.append("TAMATAR_PAGE_TOKEN_KEY")
        if self.passwords.keys is None and self.passwords.keys_file is None:
            missing.append("TAMATAR_PASSWORD_KEYS or TAMATAR_PASSWORD_KEYS_FILE")
        if missing:
            needed = ", and ".join(missing)
            raise conflict_error("TAMATAR_ENVIRONMENT", f"production needs {needed}")
        if self.passwords.bcrypt_cost < MIN_PRODUCTION_BCRYPT_COST:
            rule = f"must be {MIN_PRODUCTION_BCRYPT_COST} or more in production"
            raise conflict_error("TAMATAR_BCRYPT_COST", rule)
        return self

    @model_validator(mode="after")
    def _workers_can_share_addresses(self) -> Self:
        if self.workers == 1:
            return self
        health = () if self.health_listen is None else (self.health_listen,)
        for variable, addresses in (
            ("TAMATAR_LISTEN", self.listen),
            ("TAMATAR_HEALTH_LISTEN", health),
        ):
            if sockets := [str(address) for address in addresses if address.path]:
                rule = f"several workers cannot share {', '.join(sockets)}: use host:port only"
                raise conflict_error(variable, rule)
        if self.telemetry.metrics_listen.port + self.workers - 1 > MAX_PORT:
            rule = "leaves too few ports above it for the workers"
            raise conflict_error("TAMATAR_METRICS_LISTEN", rule)
        return self

    @classmethod
    def load(cls, *, env_file: str | None = ENV_FILE, **overrides: Any) -> Self:
        """Read the settings, or raise `SettingsError` with a line for each wrong one.

        In production an unknown variable is wrong too: a misspelt TAMATAR_CALLERS_FILE would make
        every caller on this machine an admin.

        `overrides` win. `listen="127.0.0.1:0"` stands for `TAMATAR_LISTEN=127.0.0.1:0`.
        """
        sources = Sources(cls, overrides, env_file)
        unknown = [str(each) for each in sources.unknown()]
        try:
            settings = cls.model_validate(sources.values())
        except ValidationError as error:
            raise SettingsError("\n".join([*sources.error_lines(error), *unknown])) from None
        is_meant = any("TAMATAR_ENVIRONMENT" in line for line in unknown)
        if unknown and (settings.environment == "production" or is_meant):
            raise SettingsError("\n".join(unknown))
        return settings

    def with_database(self, url: str) -> Self:
        """Return these settings with another database."""
        database = self.database.model_copy(update={"url": SecretStr(url)})
        return self.model_copy(update={"database": database})

    @property
    def effective_log_level(self) -> str:
        """The level to log at, also if none is set."""
        default = "debug" if self.environment == "development" else "info"
        return self.telemetry.log_level or default
