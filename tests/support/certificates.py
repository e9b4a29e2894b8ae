"""Certificates made for a test: an authority, and the certificates it signs."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple, Self

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


class Signed(NamedTuple):
    """A certificate with its key."""

    certificate: x509.Certificate
    private_key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key(self) -> bytes:
        return self.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def write(self, folder: Path, name: str = "server") -> tuple[Path, Path]:
        """Write both into a folder, and return their paths."""
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        certificate.write_bytes(self.pem)
        key.write_bytes(self.key)
        return certificate, key


class Authority(NamedTuple):
    """Signs certificates."""

    root: Signed

    @classmethod
    def make(cls) -> Self:
        return cls(_sign("Test CA", [], None, DAY))

    def sign(
        self, *names: str | x509.GeneralName, common_name: str = "leaf", life: timedelta = DAY
    ) -> Signed:
        """Sign a certificate for DNS names and URIs, or names of another kind."""
        return _sign(common_name, [_name(name) for name in names], self.root, life)

    def credentials(self, shown: Signed | None = None) -> grpc.ChannelCredentials:
        """Return the credentials of a caller that trusts this authority."""
        if shown is None:
            return grpc.ssl_channel_credentials(self.root.pem)
        return grpc.ssl_channel_credentials(self.root.pem, shown.key, shown.pem)


def _name(text: str | x509.GeneralName) -> x509.GeneralName:
    if isinstance(text, x509.GeneralName):
        return text
    is_uri = "://" in text
    return x509.UniformResourceIdentifier(text) if is_uri else x509.DNSName(text)


def _sign(
    common_name: str, names: list[x509.GeneralName], issuer: Signed | None, life: timedelta
) -> Signed:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    end = datetime.now(UTC) + life
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(end, datetime.now(UTC)) - DAY)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if names:
        certificate = certificate.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return Signed(certificate.sign(issuer.private_key if issuer else key, hashes.SHA256()), key)
