"""Settings: `TAMATAR_*` from the environment or a `.env` file, read once and passed down.

A setting that is wrong stops the start with its name and where the value came from. The
value of a secret is never shown. What a setting is by itself stands in `fields.py`;
here is what they are together.
"""

from typing import Any, Self

from pydantic import SecretStr, ValidationError, model_validator

from tamatar_auth.config.errors import SettingsError
from tamatar_auth.config.fields import SettingFields
from tamatar_auth.config.sources import ENV_PREFIX, Origins, conflict_error


class Settings(SettingFields):
    """Everything that is set, and goes together."""

    @model_validator(mode="after")
    def _tls_is_complete(self) -> Self:
        pair = ("tls_certificate_file", "tls_key_file")
        for field, other in (pair, pair[::-1]):
            if getattr(self, field) is not None and getattr(self, other) is None:
                raise conflict_error(field, f"needs {ENV_PREFIX}{other.upper()} beside it")
        if self.tls_client_ca_file is not None and self.tls_certificate_file is None:
            files = f"{ENV_PREFIX}TLS_CERTIFICATE_FILE and {ENV_PREFIX}TLS_KEY_FILE"
            raise conflict_error("tls_client_ca_file", f"needs {files} beside it")
        return self

    @model_validator(mode="after")
    def _exposed_listeners_are_secured(self) -> Self:
        # What other machines can reach is encrypted, and knows who calls.
        exposed = [str(address) for address in self.listen if not address.is_local]
        needed = {
            "TLS_CERTIFICATE_FILE": self.tls_certificate_file,
            "TLS_KEY_FILE": self.tls_key_file,
            "CALLERS_FILE": self.callers_file,
        }
        missing = [ENV_PREFIX + name for name, file in needed.items() if file is None]
        if exposed and missing:
            raise conflict_error(
                "listen",
                f"{', '.join(exposed)} can be reached from other machines:"
                f" set {', '.join(missing)}, or use a loopback address or a unix socket",
            )
        return self

    @model_validator(mode="after")
    def _production_is_strict(self) -> Self:
        if self.environment != "production":
            return self
        if self.page_token_key is None:
            raise conflict_error("environment", f"production needs {ENV_PREFIX}PAGE_TOKEN_KEY")
        if self.password_keys is None and self.password_keys_file is None:
            keys = f"{ENV_PREFIX}PASSWORD_KEYS or {ENV_PREFIX}PASSWORD_KEYS_FILE"
            raise conflict_error("environment", f"production needs {keys}")
        if self.bcrypt_cost < 10:  # noqa: PLR2004 - OWASP's least work factor for bcrypt
            raise conflict_error("bcrypt_cost", "must be 10 or more in production")
        return self

    @model_validator(mode="after")
    def _workers_can_share(self) -> Self:
        if self.workers == 1:
            return self
        health = () if self.health_listen is None else (self.health_listen,)
        for field, addresses in (("listen", self.listen), ("health_listen", health)):
            if sockets := [str(address) for address in addresses if address.path]:
                rule = f"several workers cannot share {', '.join(sockets)}: name host:port only"
                raise conflict_error(field, rule)
        if self.metrics_listen.port + self.workers - 1 > 65535:  # noqa: PLR2004 - the largest port
            raise conflict_error("metrics_listen", "leaves too few ports above it for the workers")
        return self

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the settings, or raise `SettingsError` with a line for each that is wrong."""
        try:
            return cls(**overrides)
        except ValidationError as error:
            raise SettingsError("\n".join(Origins(cls, overrides).error_lines(error))) from None
        except ValueError as error:
            raise SettingsError(str(error)) from None

    def with_database(self, url: str) -> Self:
        """Give the same settings with another database."""
        return self.model_copy(update={"database_url": SecretStr(url)})

    @property
    def effective_log_level(self) -> str:
        """The level to log at, also when none is set."""
        return self.log_level or ("debug" if self.environment == "development" else "info")
