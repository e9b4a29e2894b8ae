"""The text of an error names the option to change, if no connection could be made."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from tamatar.auth.v1.diagnostics_service_pb2 import GetCallerRequest
from tamatar_auth.client import UnavailableError, connect
from tests.support.certificates import Authority

AUTHORITY = Authority.make()
CA = AUTHORITY.root.pem
OTHER_CA = Authority.make().root.pem
CALL = GetCallerRequest()


@pytest.fixture(scope="module")
def addresses():
    """The addresses of a server: in plaintext, with TLS, and with client certificates."""
    leaf = AUTHORITY.sign("localhost")
    pair = [(leaf.key, leaf.pem)]
    mutual = grpc.ssl_server_credentials(pair, CA, require_client_auth=True)
    server = grpc.server(ThreadPoolExecutor(1))
    ports = {
        "plain": server.add_insecure_port("127.0.0.1:0"),
        "tls": server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(pair)),
        "mutual": server.add_secure_port("127.0.0.1:0", mutual),
    }
    server.start()
    yield {name: f"127.0.0.1:{port}" for name, port in ports.items()}
    server.stop(None)


@pytest.mark.parametrize(
    ("kind", "options", "hint"),
    [
        ("tls", {"plaintext": True}, "the service may require TLS or a client certificate"),
        ("plain", {"plaintext": False}, "the service uses plaintext: pass plaintext=True"),
        ("tls", {"root_certificates": CA}, "the certificate has another name: pass server_name"),
        (
            "tls",
            {"plaintext": False, "server_name": "localhost"},
            "the CA is not trusted: pass root_certificates",
        ),
        (
            "tls",
            {"root_certificates": OTHER_CA, "server_name": "localhost"},
            "the CA is not trusted: pass other root_certificates",
        ),
        (
            "mutual",
            {"root_certificates": CA, "server_name": "localhost"},
            "the service may require TLS or a client certificate",
        ),
        (
            "tls",
            {"root_certificates": b"not PEM"},
            "a certificate or key is not valid PEM, or they do not fit",
        ),
    ],
)
def test_failed_connection_names_option_to_change(addresses, kind, options, hint):
    with (
        connect(addresses[kind], **options) as auth,
        pytest.raises(UnavailableError) as raised,
    ):
        auth.diagnostics.GetCaller(CALL, timeout=60)

    assert str(raised.value).endswith(f"({hint})")


def test_refused_connection_has_no_hint(addresses):
    with connect("127.0.0.1:1") as auth, pytest.raises(UnavailableError) as raised:
        auth.diagnostics.GetCaller(CALL, timeout=60)

    assert str(raised.value).endswith("Connection refused")


def test_empty_token_is_named(addresses):
    with connect(addresses["plain"], token="") as auth, pytest.raises(ValueError, match="is empty"):
        auth.diagnostics.GetCaller(CALL)
