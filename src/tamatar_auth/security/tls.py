"""The server's certificate and key, and the CAs of the callers' certificates."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tamatar_auth.config.errors import OperatorError
from tamatar_auth.config.tls import TlsSettings
from tamatar_auth.config.watched_files import WatchedFiles

MAX_PEM_BYTES = 1024 * 1024

_MIN_RSA_BITS = 2048
_CURVES = ("secp256r1", "secp384r1", "secp521r1")


class TlsError(OperatorError):
    """A file of certificates or keys is invalid; the message names the file and the fault."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The files of the certificate, its key and the callers' CAs."""

    certificate: Path
    key: Path
    client_ca: Path | None

    @classmethod
    def find(cls, tls: TlsSettings) -> "TlsFiles | None":
        """Return the files that the settings name, or None if TLS is not set up."""
        if tls.certificate_file is None or tls.key_file is None:
            return None
        return cls(tls.certificate_file, tls.key_file, tls.client_ca_file)

    @property
    def paths(self) -> Sequence[Path]:
        """All of the files."""
        return [path for path in (self.certificate, self.key, self.client_ca) if path]

    def read(self) -> "TlsCredentials":
        """Read and check the files, or raise `TlsError`."""
        chain, key = _read_pem(self.certificate), _read_pem(self.key)
        leaf = _load_certificates(chain, self.certificate)[0]
        _check_key(key, leaf, self)
        if leaf.not_valid_after_utc <= datetime.now(UTC):
            raise TlsError(f"{self.certificate}: expired on {leaf.not_valid_after_utc:%Y-%m-%d}.")
        client_ca = _read_pem(self.client_ca) if self.client_ca else None
        if client_ca is not None and self.client_ca is not None:
            _load_certificates(client_ca, self.client_ca)
        return TlsCredentials(leaf, chain, key, client_ca)


@dataclass(frozen=True, slots=True)
class TlsCredentials:
    """The checked certificate and key, in the form that gRPC takes."""

    leaf: x509.Certificate = field(repr=False)
    chain: bytes = field(repr=False)
    key: bytes = field(repr=False)
    client_ca: bytes | None = field(repr=False)

    @property
    def configuration(self) -> grpc.ServerCertificateConfiguration:
        """A new configuration; gRPC uses each object once."""
        return grpc.ssl_server_certificate_configuration([(self.key, self.chain)], self.client_ca)


def server_credentials(tls: WatchedFiles[TlsCredentials]) -> grpc.ServerCredentials:
    """Return the credentials of one port, which follow changes of the files.

    Each port needs its own: at every handshake gRPC asks whether the certificate has changed
    since the last handshake of this port.
    """
    current = tls.value

    def changed_configuration() -> grpc.ServerCertificateConfiguration | None:
        nonlocal current
        if tls.value is current:
            return None
        current = tls.value
        return current.configuration

    return grpc.dynamic_ssl_server_credentials(
        current.configuration,
        changed_configuration,  # type: ignore[arg-type] # None means unchanged
        require_client_authentication=current.client_ca is not None,
    )


def _read_pem(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_PEM_BYTES + 1)
    except OSError as error:
        raise TlsError(f"{path} cannot be read ({error.strerror}).") from None
    if len(content) > MAX_PEM_BYTES:
        raise TlsError(f"{path}: must not be larger than {MAX_PEM_BYTES} bytes.")
    return content


def _load_certificates(content: bytes, path: Path) -> Sequence[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError:
        raise TlsError(f"{path}: contains no certificates in PEM.") from None


def _check_key(content: bytes, leaf: x509.Certificate, files: TlsFiles) -> None:
    try:
        key = load_pem_private_key(content, password=None)
    except TypeError:
        raise TlsError(f"{files.key}: must not be protected by a password.") from None
    except Exception:  # noqa: BLE001 - its text may quote the key
        raise TlsError(f"{files.key}: contains no private key in PEM.") from None
    if not _is_supported_key(key):
        raise TlsError(f"{files.key}: must be ECDSA (P-256, P-384, P-521) or RSA of 2048 bits.")
    if key.public_key() != leaf.public_key():
        raise TlsError(f"{files.key}: is not the key of the certificate in {files.certificate}.")


def _is_supported_key(key: object) -> bool:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.curve.name in _CURVES
    return isinstance(key, rsa.RSAPrivateKey) and key.key_size >= _MIN_RSA_BITS
