"""Checks the health of a server on this machine, as an orchestrator does."""

import ssl
from typing import Any, cast

import grpc
from cryptography import x509
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from tamatar_auth.cli.local.addresses import parse_address
from tamatar_auth.config.addresses import ListenAddress
from tamatar_auth.config.settings import Settings
from tamatar_auth.security.tls import TlsError, TlsFiles

# The server is on this machine, so the proxy of the environment does not apply.
_NO_PROXY = ("grpc.enable_http_proxy", 0)


def check_own_server(address: str | None, timeout: float) -> str:
    """Return the status of a server on this machine; by default, of the one in the settings."""
    settings = Settings.load()
    probed = probed_address(settings) if address is None else parse_address(address)
    return check_health(probed, timeout, tls_files_at(settings, probed))


def probed_address(settings: Settings) -> ListenAddress:
    """Return an address that needs no certificate, or else the first address."""
    sockets = [address for address in settings.listen if address.path]
    return settings.health_listen or (sockets or settings.listen)[0]


def tls_files_at(settings: Settings, address: ListenAddress) -> TlsFiles | None:
    """Return the certificate files of an address, or None if it is plain text."""
    return None if address == settings.health_listen else TlsFiles.find(settings.tls)


def check_health(address: ListenAddress, timeout: float, tls: TlsFiles | None = None) -> str:
    """Return SERVING or NOT_SERVING, or a sentence that says why there is no status.

    Any certificate of the server is accepted, because the server is on this machine and its
    status is no secret. If the server requires a client certificate, it gets its own.
    """
    try:
        with _channel(address, timeout, tls) as channel:
            stub: Any = HealthStub(channel)
            response = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout)
    except grpc.RpcError as error:
        needs_certificate = tls is not None and tls.client_ca is not None and not address.path
        advice = "; add a unix socket to TAMATAR_LISTEN" if needs_certificate else ""
        return f"{address} does not answer ({cast('grpc.Call', error).code().name}){advice}"
    except (OSError, ValueError) as error:
        return f"{address} does not answer ({type(error).__name__})"
    except TlsError as error:
        return str(error)
    return health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)


def _channel(address: ListenAddress, timeout: float, tls: TlsFiles | None) -> grpc.Channel:
    if tls is None or address.path:
        return grpc.insecure_channel(str(address), options=[_NO_PROXY])
    server_certificate = ssl.get_server_certificate((address.host, address.port), timeout=timeout)
    client_certificate = tls.read() if tls.client_ca else None
    credentials = grpc.ssl_channel_credentials(
        root_certificates=server_certificate.encode(),
        private_key=client_certificate.key if client_certificate else None,
        certificate_chain=client_certificate.chain if client_certificate else None,
    )
    name = _certificate_name(x509.load_pem_x509_certificate(server_certificate.encode()))
    name_override = [("grpc.ssl_target_name_override", name)] if name else []
    return grpc.secure_channel(str(address), credentials, [_NO_PROXY, *name_override])


def _certificate_name(certificate: x509.Certificate) -> str | None:
    """Return a name in the certificate, or None."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        subjects = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return str(subjects[0].value) if subjects else None
    hosts = found.get_values_for_type(x509.DNSName)
    addresses = found.get_values_for_type(x509.IPAddress)
    names = [*(host.replace("*", "any") for host in hosts), *map(str, addresses)]
    return names[0] if names else None
