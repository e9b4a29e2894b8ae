"""All settings: read once from `TAMATAR_*` variables or a `.env` file, then passed down.

A wrong setting ends the start with its variable, its place and its rule. The value of a
secret is never shown. The settings of a subject are a group with a module of its own; this
module has those that concern the process, and the rules between groups.
"""

from collections.abc import Container, Iterator
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError

from tamatar_auth.config.addresses import ListenAddress
from tamatar_auth.config.database import DatabaseSettings
from tamatar_auth.config.errors import SettingsError
from tamatar_auth.config.factors import FactorSettings
from tamatar_auth.config.groups import Conflict, SettingsGroup
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
    """The environment of the process. Production requires a database and its secrets."""
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
    factors: FactorSettings = FactorSettings()
    user_tokens: UserTokenSettings = UserTokenSettings()
    limits: LimitSettings = LimitSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    retention: RetentionSettings = RetentionSettings()

    def conflicts(self) -> Iterator[Conflict]:
        """Yield each setting that does not fit the others, and each one that production lacks."""
        yield from self.tls.conflicts()
        yield from self.factors.conflicts()
        yield from self._unsecured_addresses()
        if self.environment == "production":
            yield from self._missing_in_production()
        if self.workers > 1:
            yield from self._addresses_workers_cannot_share()

    def _unsecured_addresses(self) -> Iterator[Conflict]:
        exposed = [str(address) for address in self.listen if not address.is_local]
        required = {
            "TAMATAR_TLS_CERTIFICATE_FILE": self.tls.certificate_file,
            "TAMATAR_TLS_KEY_FILE": self.tls.key_file,
            "TAMATAR_CALLERS_FILE": self.callers_file,
        }
        missing = [variable for variable, file in required.items() if file is None]
        if exposed and missing:
            yield Conflict(
                "TAMATAR_LISTEN",
                f"{', '.join(exposed)} can be reached from other machines:"
                f" set {', '.join(missing)}, or use a loopback address or a unix socket",
            )

    def _missing_in_production(self) -> Iterator[Conflict]:
        if self.database.url is None:
            example = "postgresql://user:password@host/database"
            yield Conflict("TAMATAR_DATABASE_URL", f"production needs it: {example}")
        if self.page_token_key is None:
            rule = "production needs it: the output of `openssl rand -hex 32`"
            yield Conflict("TAMATAR_PAGE_TOKEN_KEY", rule)
        if self.passwords.keys is None and self.passwords.keys_file is None:
            yield Conflict(
                "TAMATAR_PASSWORD_KEYS",
                "production needs it: a name, a colon and the output of `openssl rand -base64 32`;"
                " or set TAMATAR_PASSWORD_KEYS_FILE",
            )
        if self.passwords.bcrypt_cost < MIN_PRODUCTION_BCRYPT_COST:
            rule = f"must be {MIN_PRODUCTION_BCRYPT_COST} or more in production"
            yield Conflict("TAMATAR_BCRYPT_COST", rule)

    def _addresses_workers_cannot_share(self) -> Iterator[Conflict]:
        health = () if self.health_listen is None else (self.health_listen,)
        for variable, addresses in (
            ("TAMATAR_LISTEN", self.listen),
            ("TAMATAR_HEALTH_LISTEN", health),
        ):
            if sockets := [str(address) for address in addresses if address.path]:
                rule = f"several workers cannot share {', '.join(sockets)}: use host:port only"
                yield Conflict(variable, rule)
        if self.telemetry.metrics_listen.port + self.workers - 1 > MAX_PORT:
            rule = "leaves too few ports above it for the workers"
            yield Conflict("TAMATAR_METRICS_LISTEN", rule)

    @classmethod
    def load(cls, *, env_file: str | None = ENV_FILE, **overrides: Any) -> Self:
        """Read the settings, or raise `SettingsError` with a line for each wrong or missing one.

        In production an unknown variable is wrong too: a misspelt TAMATAR_CALLERS_FILE would make
        every caller on this machine an admin.

        `overrides` win. `listen="127.0.0.1:0"` stands for `TAMATAR_LISTEN=127.0.0.1:0`.
        """
        sources = Sources(cls, overrides, env_file)
        unknown = [str(each) for each in sources.unknown()]
        wrong: Container[str] = ()
        faults: list[str] = []
        try:
            settings = cls.model_validate(sources.values())
        except ValidationError as error:
            wrong, faults = sources.wrong_variables(error), sources.error_lines(error)
            settings = cls.model_validate(sources.values(without=wrong))
        faults += sources.conflict_lines(settings.conflicts(), without=wrong)
        is_meant = any("TAMATAR_ENVIRONMENT" in line for line in unknown)
        if faults or (unknown and (settings.environment == "production" or is_meant)):
            raise SettingsError("\n".join([*faults, *unknown]))
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
