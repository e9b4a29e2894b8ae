"""Finds why a service does not answer: connects once more, after a call has failed.

gRPC reports the failure of one of several addresses, in the words of its TLS library.
"""

import os
import re
import socket
import ssl
from pathlib import Path
from typing import Any, NamedTuple

from tamatar_auth.cli.remote.context_file import ServiceContext
from tamatar_auth.client.target import is_local

TIMEOUT = 3.0
"""Seconds that a connection to one address, and each step of TLS, may take."""

DEFAULT_PORT = 443
"""The port that gRPC uses if an address has none."""

_ENDPOINT = re.compile(r"(?:dns:(?://[^/]*/)?)?(\[[^\]]+\]|[^:/\[\]]+)(?::(\d+))?")
_UNIX_PATH = re.compile(r"unix:(?://(?=/))?(.+)")
_PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")

_UNKNOWN_AUTHORITY = {7, 18, 19, 20, 21}
"""OpenSSL's codes of a certificate whose signature cannot be verified."""
_WRONG_NAME = {62, 64}
"""OpenSSL's codes of a certificate that has neither the host's name nor its IP address."""
_NOT_TLS = {"WRONG_VERSION_NUMBER", "UNEXPECTED_MESSAGE", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"}
"""OpenSSL reports these if the bytes of the other side are not TLS."""

_NEXT_STEP = "Start the service, or use --address or --context to call another one."
_OPTIONS = "with `tamatar-auth context add`"


class _Endpoint(NamedTuple):
    host: str
    port: int


def find_cause(service: ServiceContext) -> str | None:
    """Return why the service does not answer and what to do about it, or None."""
    unix = _UNIX_PATH.fullmatch(service.address)
    if unix is not None:
        return _socket_cause(unix[1])
    found = _ENDPOINT.fullmatch(service.address)
    if found is None or _uses_proxy(service.address):
        return None
    cause = _endpoint_cause(service, _Endpoint(found[1].strip("[]"), int(found[2] or DEFAULT_PORT)))
    if cause is not None and found[2] is None:
        cause += f" The address has no port, so port {DEFAULT_PORT} was tried."
    return cause


def _uses_proxy(address: str) -> bool:
    """Return whether a proxy connects in place of this machine, as it does to no local address."""
    return not is_local(address) and any(os.environ.get(name) for name in _PROXY_VARIABLES)


def _socket_cause(path: str) -> str | None:
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(TIMEOUT)
            connection.connect(path)
    except ConnectionRefusedError:
        return f"nothing listens on this socket. {_NEXT_STEP}"
    except OSError as error:
        return f"the socket cannot be opened ({_text(error)}). {_NEXT_STEP}"
    return None


def _endpoint_cause(service: ServiceContext, endpoint: _Endpoint) -> str | None:
    try:
        with socket.create_connection(endpoint, TIMEOUT) as connection:
            if service.is_plaintext:
                return _plaintext_cause(connection, endpoint.host)
            return _tls_cause(service, endpoint, connection)
    except socket.gaierror as error:
        return f"the host {endpoint.host} does not resolve ({_text(error)})."
    except ConnectionRefusedError:
        return f"nothing listens on this port. {_NEXT_STEP}"
    except TimeoutError:
        return f"it is silent for {TIMEOUT:g} s. Check the address and the firewalls."
    except OSError as error:
        return f"the connection failed ({_text(error)})."


def _plaintext_cause(connection: socket.socket, host: str) -> str | None:
    """Return the cause if the other side speaks TLS."""
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE  # nothing is sent
    try:
        unverified.wrap_socket(connection, server_hostname=host).close()
    except OSError:
        return None
    return f"it requires TLS, and plaintext was used. Use --tls or --ca {_OPTIONS}."


def _tls_cause(
    service: ServiceContext, endpoint: _Endpoint, connection: socket.socket
) -> str | None:
    name = service.server_name or endpoint.host
    try:
        context = _tls_context(service)
    except ssl.SSLError:
        return _file_cause(service)
    try:
        with context.wrap_socket(connection, server_hostname=name) as encrypted:
            # A gRPC server sends its settings first. Without a valid client certificate it closes.
            return None if encrypted.recv(1) else _client_certificate_cause(service)
    except ssl.SSLCertVerificationError as error:
        return _certificate_cause(service, endpoint, name, error)
    except ssl.SSLError as error:
        if error.reason in _NOT_TLS:
            return f"it uses plaintext, and TLS was used. Use --plaintext {_OPTIONS}."
        return _client_certificate_cause(service) if "ALERT" in str(error.reason) else None
    except ConnectionError:
        return _client_certificate_cause(service)


def _certificate_cause(
    service: ServiceContext, endpoint: _Endpoint, name: str, error: ssl.SSLCertVerificationError
) -> str:
    if error.verify_code in _WRONG_NAME:
        names = ", ".join(_certificate_names(service, endpoint)) or "no name"
        return (
            f"its certificate is for {names}, and not for {name}."
            f" Use a name of the certificate in the address, or as --server-name {_OPTIONS}."
        )
    if error.verify_code in _UNKNOWN_AUTHORITY:
        return f"the CA of its certificate is not trusted. Use its CA bundle as --ca {_OPTIONS}."
    return f"its certificate is not valid ({error.verify_message})."


def _certificate_names(service: ServiceContext, endpoint: _Endpoint) -> list[str]:
    """Return the names in the certificate of a service, whose CA is trusted."""
    context = _tls_context(service)
    context.check_hostname = False
    with (
        socket.create_connection(endpoint, TIMEOUT) as connection,
        context.wrap_socket(connection, server_hostname=endpoint.host) as encrypted,
    ):
        certificate: Any = encrypted.getpeercert()
    return [value for kind, value in certificate.get("subjectAltName", ()) if kind != "URI"]


def _client_certificate_cause(service: ServiceContext) -> str:
    closed = "it closed the connection when TLS had begun."
    if service.certificate is None:
        return (
            f"{closed} It may require a client certificate. Use --certificate and --key {_OPTIONS}."
        )
    return f"{closed} It may not trust the client certificate {service.certificate}."


def _file_cause(service: ServiceContext) -> str:
    given = (service.root_certificates, service.certificate, service.private_key)
    files = ", ".join(path for path in given if path is not None)
    return f"TLS cannot use these files: {files}. Each must be PEM, and the key must fit."


def _tls_context(service: ServiceContext) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=_expanded(service.root_certificates))
    context.set_alpn_protocols(["h2"])
    # Newer releases of Python require more of a certificate than gRPC does.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    certificate = _expanded(service.certificate)
    if certificate is not None:
        # gRPC takes no encrypted key. Without a password OpenSSL would ask for one.
        context.load_cert_chain(certificate, _expanded(service.private_key), password="")
    return context


def _expanded(path: str | None) -> Path | None:
    return None if path is None else Path(path).expanduser()


def _text(error: OSError) -> str:
    return error.strerror or str(error)
