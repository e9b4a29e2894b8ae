"""A service that does not answer: the command names the cause and the next step."""

import contextlib
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import grpc
import pytest

from tests.support.certificates import Authority
from tests.support.commands import serving, tamatar
from tests.support.databases import TEMPLATE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def services(postgres, folder):
    """The ports of servers: in plaintext, with TLS, with client certificates, and expired."""
    authority = Authority.make()
    authority.root.write(folder, "ca")
    Authority.make().root.write(folder, "other")
    certificate, key = authority.sign("localhost", "auth.internal").write(folder)
    (folder / "bad.pem").write_text("not PEM\n")
    tls = {"TAMATAR_TLS_CERTIFICATE_FILE": str(certificate), "TAMATAR_TLS_KEY_FILE": str(key)}
    settings = {
        "plain": {},
        "tls": tls,
        "mutual": tls | {"TAMATAR_TLS_CLIENT_CA_FILE": str(folder / "ca.pem")},
    }
    name = f"causes_{os.getpid()}"
    url = postgres.create(name, TEMPLATE)
    with contextlib.ExitStack() as running:
        servers = {
            each: running.enter_context(serving(cwd=folder, TAMATAR_DATABASE_URL=url, **given))
            for each, given in settings.items()
        }
        ports = {each: server.addresses[0].rpartition(":")[2] for each, server in servers.items()}
        yield ports | {"expired": running.enter_context(expired_server(authority))}
    postgres.drop(name)


@contextlib.contextmanager
def expired_server(authority):
    """Run a server of gRPC with a certificate that ours refuses at its start; yield its port."""
    expired = authority.sign("localhost", life=timedelta(days=-1))
    server = grpc.server(ThreadPoolExecutor(1))
    credentials = grpc.ssl_server_credentials([(expired.key, expired.pem)])
    port = server.add_secure_port("localhost:0", credentials)
    server.start()
    yield str(port)
    server.stop(None)


@pytest.fixture
def ask(tmp_path, folder):
    """Return a function that calls a service with the options of a context."""

    def run(address, *options, code=3, **env):
        env["TAMATAR_CONTEXTS_FILE"] = str(tmp_path / "contexts.toml")
        tamatar("context", "add", "x", address, *options, cwd=folder, **env)
        return tamatar("user", "list", cwd=folder, code=code, **env).stderr

    return run


@pytest.mark.parametrize(
    ("server", "host", "options", "cause"),
    [
        ("tls", "127.0.0.1", ["--plaintext"], "it requires TLS, and plaintext was used."),
        ("plain", "localhost", ["--tls"], "it uses plaintext, and TLS was used."),
        (
            "tls",
            "127.0.0.1",
            ["--ca", "ca.pem"],
            "its certificate is for localhost, auth.internal, and not for 127.0.0.1.",
        ),
        (
            "tls",
            "localhost",
            ["--ca", "ca.pem", "--server-name", "shop"],
            "its certificate is for localhost, auth.internal, and not for shop.",
        ),
        ("tls", "localhost", ["--ca", "other.pem"], "the CA of its certificate is not trusted."),
        ("tls", "localhost", ["--tls"], "the CA of its certificate is not trusted."),
        ("tls", "localhost", ["--ca", "bad.pem"], "TLS cannot use these files: "),
        (
            "mutual",
            "localhost",
            ["--ca", "ca.pem"],
            "it closed the connection when TLS had begun. It may require a client certificate.",
        ),
        (
            "mutual",
            "localhost",
            ["--ca", "ca.pem", "--certificate", "other.pem", "--key", "other.key"],
            "it closed the connection when TLS had begun. It may not trust the client certificate ",
        ),
        (
            "expired",
            "localhost",
            ["--ca", "ca.pem"],
            "its certificate is not valid (certificate has expired).",
        ),
    ],
)
def test_wrong_tls_options_are_named(ask, services, server, host, options, cause):
    address = f"{host}:{services[server]}"

    said = ask(address, *options)

    assert said.startswith(f"{address} does not answer: {cause}")
    assert len(said.splitlines()) == 1


def test_right_tls_options_get_an_answer(ask, services):
    ca = ("--ca", "ca.pem")

    ask(f"localhost:{services['tls']}", *ca, code=0)
    ask(f"127.0.0.1:{services['tls']}", *ca, "--server-name", "auth.internal", code=0)


def test_healthcheck_of_context_verifies_certificate(tmp_path, folder, services):
    env = {"TAMATAR_CONTEXTS_FILE": str(tmp_path / "contexts.toml")}
    check = ("healthcheck", "--context", "x", "--timeout", "60")

    def status(ca, code):
        address = f"localhost:{services['tls']}"
        tamatar("context", "add", "x", address, "--ca", ca, cwd=folder, **env)
        return tamatar(*check, cwd=folder, code=code, **env).stdout

    assert status("ca.pem", code=0) == "SERVING\n"
    assert "the CA of its certificate is not trusted." in status("other.pem", code=1)


def test_healthcheck_of_other_machine_names_the_cause(tmp_path):
    said = tamatar("healthcheck", "--address", "auth.invalid:1", cwd=tmp_path, code=1).stdout

    assert said.startswith("auth.invalid:1 does not answer: the host auth.invalid does not resolve")


def test_unresolved_host_and_missing_port_are_named(ask):
    said = ask("auth.invalid")

    assert "the host auth.invalid does not resolve (" in said
    assert "The address has no port, so port 443 was tried." in said
    assert "no port" not in ask("auth.invalid:50051")


def test_address_without_listener_is_named(ask, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    missing, left = tmp_path / "missing", tmp_path / "left"
    with socket.socket(socket.AF_UNIX) as ended:
        ended.bind(str(left))

    assert "nothing listens on this port. Start the service" in ask(f"127.0.0.1:{port}")
    assert "cannot be opened (No such file or directory)" in ask(f"unix:{missing}")
    assert "nothing listens on this socket. Start the service" in ask(f"unix:{left}")


def test_proxy_hides_causes_of_remote_addresses_only(ask):
    proxy = {"http_proxy": "http://127.0.0.1:1"}
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    assert "nothing listens on this port" in ask(f"127.0.0.1:{port}", **proxy)
    assert "does not resolve" not in ask("auth.invalid:50051", **proxy)


def test_listener_that_is_no_service_is_named_by_grpc(ask):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        said = ask(address)

    assert said.startswith(f"{address} does not answer")
