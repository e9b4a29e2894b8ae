"""Settings: `TAMATAR_*` from the environment or a `.env` file, read once and passed down.

A setting that is wrong stops the start with its name and where the value came from. The
value of a secret is never shown. What a setting is by itself stands in `fields.py`;
here is what they are together.
"""

from typing import Any, Self

from pydantic import SecretStr, ValidationError, model_validator

from tamatar_auth.config.fields import SettingFields
from tamatar_auth.config.sources import PREFIX, Origins, disagreement


class OperatorError(Exception):
    """A command cannot go on: the text tells the operator why, and what to do."""

    exit_code = 1

    def told(self) -> str:
        """Return what the operator is shown."""
        return str(self)


class SettingsError(OperatorError):
    """The settings are wrong; each line of the text names one and says what it must be."""

    exit_code = 2

    def told(self) -> str:
        """Return the lines below a sentence that says what they are of."""
        return f"The settings are wrong:\n{self}"


class Settings(SettingFields):
    """Everything that is set, and goes together."""

    @model_validator(mode="after")
    def _tls_is_complete(self) -> Self:
        pair = ("tls_certificate_file", "tls_key_file")
        for field, other in (pair, pair[::-1]):
            if getattr(self, field) is not None and getattr(self, other) is None:
                raise disagreement(field, f"needs {PREFIX}{other.upper()} beside it")
        if self.tls_client_ca_file is not None and self.tls_certificate_file is None:
            files = f"{PREFIX}TLS_CERTIFICATE_FILE and {PREFIX}TLS_KEY_FILE"
            raise disagreement("tls_client_ca_file", f"needs {files} beside it")
        return self

    @model_validator(mode="after")
    def _strangers_are_kept_out(self) -> Self:
        # What other machines can reach is encrypted, and knows who calls.
        outside = [str(address) for address in self.listen if not address.is_local]
        needed = {
            "TLS_CERTIFICATE_FILE": self.tls_certificate_file,
            "TLS_KEY_FILE": self.tls_key_file,
            "CALLERS_FILE": self.callers_file,
        }
        missing = [PREFIX + name for name, file in needed.items() if file is None]
        if outside and missing:
            raise disagreement(
                "listen",
                f"{', '.join(outside)} can be reached from other machines:"
                f" set {', '.join(missing)}, or use a loopback address or a unix socket",
            )
        return self

    @model_validator(mode="after")
    def _production_is_strict(self) -> Self:
        if self.environment != "production":
            return self
        if self.page_token_key is None:
            raise disagreement("environment", f"production needs {PREFIX}PAGE_TOKEN_KEY")
        if self.password_keys is None and self.password_keys_file is None:
            keys = f"{PREFIX}PASSWORD_KEYS or {PREFIX}PASSWORD_KEYS_FILE"
            raise disagreement("environment", f"production needs {keys}")
        if self.bcrypt_cost < 10:  # noqa: PLR2004 - OWASP's least work factor for bcrypt
            raise disagreement("bcrypt_cost", "must be 10 or more in production")
        return self

    @model_validator(mode="after")
    def _workers_can_share(self) -> Self:
        if self.workers == 1:
            return self
        health = () if self.health_listen is None else (self.health_listen,)
        for field, addresses in (("listen", self.listen), ("health_listen", health)):
            if sockets := [str(address) for address in addresses if address.path]:
                rule = f"several workers cannot share {', '.join(sockets)}: name host:port only"
                raise disagreement(field, rule)
        if self.metrics_listen.port + self.workers - 1 > 65535:  # noqa: PLR2004 - the largest port
            raise disagreement("metrics_listen", "leaves too few ports above it for the workers")
        return self

    @classmethod
    def load(cls, **given: Any) -> Self:
        """Read the settings, or raise `SettingsError` with a line for each that is wrong."""
        try:
            return cls(**given)
        except ValidationError as error:
            raise SettingsError("\n".join(Origins(cls, given).lines(error))) from None
        except ValueError as error:
            raise SettingsError(str(error)) from None

    def with_database(self, url: str) -> Self:
        """Give the same settings with another database."""
        return self.model_copy(update={"database_url": SecretStr(url)})

    @property
    def least_log_level(self) -> str:
        """The level to log at, also when none is set."""
        return self.log_level or ("debug" if self.environment == "development" else "info")
