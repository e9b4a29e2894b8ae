"""Settings of TLS."""

from collections.abc import Iterator

from pydantic import Field

from tamatar_auth.config.groups import Conflict, SettingsGroup
from tamatar_auth.config.types import OptionalFile

CERTIFICATE, KEY = "TAMATAR_TLS_CERTIFICATE_FILE", "TAMATAR_TLS_KEY_FILE"
CLIENT_CA = "TAMATAR_TLS_CLIENT_CA_FILE"


class TlsSettings(SettingsGroup):
    """The files of the server's certificate, and of the CAs that sign callers' certificates."""

    certificate_file: OptionalFile = Field(default=None, validation_alias=CERTIFICATE)
    """The server's certificate and the chain to its CA (PEM)."""
    key_file: OptionalFile = Field(default=None, validation_alias=KEY)
    """The key of the certificate (PEM, without a password)."""
    client_ca_file: OptionalFile = Field(default=None, validation_alias=CLIENT_CA)
    """The CAs that sign callers' certificates (PEM). If set, every connection must present a
    certificate, except on unix sockets."""

    def conflicts(self) -> Iterator[Conflict]:
        """Yield each file that lacks another one beside it."""
        if self.certificate_file is not None and self.key_file is None:
            yield Conflict(CERTIFICATE, f"needs {KEY} beside it")
        if self.key_file is not None and self.certificate_file is None:
            yield Conflict(KEY, f"needs {CERTIFICATE} beside it")
        if self.client_ca_file is not None and self.certificate_file is None:
            yield Conflict(CLIENT_CA, f"needs {CERTIFICATE} and {KEY} beside it")
