"""Callers and certificates: used, refused, and reloaded while the server runs."""

import asyncio
import contextlib
import signal
import socket
import ssl
from datetime import timedelta

import grpc
import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ed25519
from grpc import StatusCode
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from tamatar.auth.v1 import diagnostics_service_pb2 as pb
from tamatar.auth.v1.diagnostics_service_pb2_grpc import DiagnosticsServiceStub
from tamatar_auth.cli.local import healthcheck
from tamatar_auth.config.addresses import ListenAddress
from tamatar_auth.security.caller_file_editor import CallerFile
from tamatar_auth.security.callers import CallerToken, Role
from tamatar_auth.security.tls import TlsError, TlsFiles
from tamatar_auth.server.app import run_service
from tests.support.calls import refusal
from tests.support.certificates import DAY, Authority
from tests.support.commands import serving, tamatar
from tests.support.settings import changed
from tests.support.waiting import PATIENCE, until

UNKNOWN = (StatusCode.UNAUTHENTICATED, "CALLER_UNKNOWN")
LIFE = timedelta(days=30)
SPIFFE_ID = "spiffe://example.com/operator"


@pytest.fixture(scope="module")
def authority():
    return Authority.make()


@pytest.fixture
def file(tmp_path):
    return tmp_path / "callers.toml"


@pytest.fixture
def callers(file):
    return CallerFile(file)


@pytest.fixture
def operator(callers):
    return callers.add(
        "operator", [Role.ADMIN], LIFE, spiffe_ids=[SPIFFE_ID], dns_names=["ops.test"]
    )


@pytest.fixture
def encrypted(settings, file, operator, authority, tmp_path):
    """Settings of a server with TLS and one operator."""
    certificate, key = authority.sign("localhost").write(tmp_path)
    return changed(settings, callers_file=file, tls_certificate_file=certificate, tls_key_file=key)


@pytest.fixture
def mutual(encrypted, authority, tmp_path):
    """Settings of a server that requires client certificates too."""
    (tmp_path / "ca.pem").write_bytes(authority.root.pem)
    return changed(encrypted, tls_client_ca_file=tmp_path / "ca.pem")


def listening(settings, *addresses):
    return changed(settings, listen=tuple(map(ListenAddress.parse, addresses)))


def bearer(token):
    return (("authorization", f"Bearer {token.text}"),)


@contextlib.asynccontextmanager
async def connected(service, credentials=None):
    address = service.addresses[0]
    target = str(address) if address.path else f"localhost:{address.port}"
    made = (
        grpc.aio.secure_channel(target, credentials)
        if credentials
        else grpc.aio.insecure_channel(target)
    )
    async with made as channel:
        yield channel


def ask(channel, *tokens):
    """Call a method that only an operator may call."""
    metadata = tuple(pair for token in tokens for pair in bearer(token))
    return DiagnosticsServiceStub(channel).GetDatabaseInfo(
        pb.GetDatabaseInfoRequest(), metadata=metadata, timeout=PATIENCE
    )


async def answer(service, credentials=None, *tokens):
    """Return OK, or the status of a refusal, on a separate connection."""
    async with connected(service, credentials) as channel:
        try:
            await ask(channel, *tokens)
        except grpc.aio.AioRpcError as error:
            return error.code()
    return StatusCode.OK


async def becomes(expected, question):
    for _ in range(400):
        if await question() == expected:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"never {expected}")


def events(logs, name):
    return [entry for entry in logs if entry["event"] == name]


class TestReload:
    """Files that change while the server runs."""

    async def test_renewed_certificate_is_used_without_restart(self, encrypted, authority):
        second = Authority.make()
        files = TlsFiles.find(encrypted.tls)

        async def trusted_by(trusted):
            async with connected(service, trusted.credentials()) as channel:
                try:
                    await HealthStub(channel).Check(
                        health_pb2.HealthCheckRequest(), timeout=PATIENCE
                    )
                except grpc.aio.AioRpcError:
                    return False
            return True

        with structlog.testing.capture_logs() as logs:
            async with run_service(encrypted) as service:
                assert await trusted_by(authority)

                files.key.write_bytes(second.sign("localhost").key)
                await becomes(1, lambda: _count(logs, "file not reloaded"))
                assert await trusted_by(authority)

                second.sign("localhost").write(files.key.parent)
                await becomes(expected=True, question=lambda: trusted_by(second))
                assert not await trusted_by(authority)

        (entry,) = events(logs, "file not reloaded")
        assert "is not the key of the certificate" in entry["why"]

    async def test_changed_callers_file_is_reloaded_unless_invalid(
        self, settings, file, callers, operator
    ):
        mine = changed(settings, callers_file=file)
        with structlog.testing.capture_logs() as logs:
            async with run_service(mine) as service:
                assert await answer(service, None, operator) is StatusCode.OK

                successor = callers.rotate("operator", timedelta(hours=1), LIFE)
                await becomes(StatusCode.OK, lambda: answer(service, None, successor))
                assert await answer(service, None, operator) is StatusCode.OK

                good = file.read_text()
                for broken in (f"{good}\n[callers.x]\nroles = []", ""):
                    file.write_text(broken) if broken else file.unlink()
                    count = len(events(logs, "file not reloaded"))
                    await becomes(count + 1, lambda: _count(logs, "file not reloaded"))
                    assert await answer(service, None, successor) is StatusCode.OK

                file.write_text(good)
                callers.rotate("operator", timedelta(0), LIFE)
                await becomes(StatusCode.UNAUTHENTICATED, lambda: answer(service, None, successor))

        wrong, gone = (entry["why"] for entry in events(logs, "file not reloaded"))
        assert wrong.startswith(f"{file}: caller x: roles: ")
        assert "cannot be read" in gone
        assert not any(token.text in str(logs) for token in (operator, successor))

    async def test_callers_file_behind_kubelet_links_is_reloaded(
        self, settings, file, callers, operator, tmp_path
    ):
        def publish(version):
            """Replace the file as the kubelet does, which renames a link to a folder."""
            (tmp_path / version).mkdir()
            file.rename(tmp_path / version / file.name)
            (tmp_path / "..new").symlink_to(version)
            (tmp_path / "..new").rename(tmp_path / "..data")

        publish("..1")
        mounted = tmp_path / "mounted.toml"
        mounted.symlink_to(f"..data/{file.name}")
        async with run_service(changed(settings, callers_file=mounted)) as service:
            assert await answer(service, None, operator) is StatusCode.OK

            for version in ("..2", "..3"):
                successor = callers.add(f"operator-{version[2:]}", [Role.ADMIN], LIFE)
                publish(version)
                await becomes(StatusCode.OK, lambda token=successor: answer(service, None, token))

    def test_sighup_reloads_callers_without_logging_tokens(
        self, migrated_database, file, callers, operator, tmp_path
    ):
        stranger = CallerToken.issue()
        with serving(
            cwd=tmp_path,
            TAMATAR_DATABASE_URL=migrated_database,
            TAMATAR_CALLERS_FILE=str(file),
            TAMATAR_LOG_LEVEL="debug",
            OTEL_TRACES_EXPORTER="console",
        ) as server:
            (address,) = server.addresses
            with grpc.insecure_channel(address) as channel:
                method = channel.unary_unary("/tamatar.auth.v1.DiagnosticsService/GetDatabaseInfo")
                assert method(b"", metadata=bearer(operator))
                with pytest.raises(grpc.RpcError) as refused:
                    method(b"", metadata=bearer(stranger))
                server.ask(signal.SIGHUP)
                until(lambda: server.events("file reloaded"))
                assert method(b"", metadata=bearer(operator))
            server.ask(signal.SIGTERM)
            assert server.ended() == 0

        output = server.said + str(refused.value) + str(refused.value.trailing_metadata())
        assert "DiagnosticsService/GetDatabaseInfo" in server.said
        assert operator.text not in output
        assert stranger.text not in output


class TestTls:
    """TLS and client certificates."""

    async def test_caller_token_works_over_tls(self, encrypted, operator, authority):
        async with run_service(encrypted) as service:
            trusting = authority.credentials()
            assert await answer(service, trusting, operator) is StatusCode.OK
            assert await answer(service, trusting) is StatusCode.UNAUTHENTICATED
            assert (
                await answer(service, trusting, CallerToken.issue()) is StatusCode.UNAUTHENTICATED
            )

    async def test_plaintext_on_tls_port_is_unavailable(self, encrypted, operator):
        async with run_service(encrypted) as service:
            assert await answer(service, None, operator) is StatusCode.UNAVAILABLE

    async def test_old_tls_versions_are_refused(self, encrypted):
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.set_ciphers("ALL:@SECLEVEL=0")

        def handshake(port, version):
            with socket.create_connection(("127.0.0.1", port)) as plain:
                old.minimum_version = old.maximum_version = version
                with old.wrap_socket(plain) as wrapped:
                    return wrapped.version()

        async with run_service(encrypted) as service:
            port = service.addresses[0].port
            assert await asyncio.to_thread(handshake, port, ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
            with pytest.warns(DeprecationWarning, match="TLSv1_1"), pytest.raises(OSError):  # noqa: PT011
                await asyncio.to_thread(handshake, port, ssl.TLSVersion.TLSv1_1)

    @pytest.mark.parametrize("name", [SPIFFE_ID, "ops.test", "OPS.test"])
    async def test_client_certificate_of_caller_is_enough(self, mutual, authority, name):
        async with run_service(mutual) as service:
            shown = authority.credentials(authority.sign(name))
            assert await answer(service, shown) is StatusCode.OK

    async def test_unknown_client_certificates_are_refused(self, mutual, authority):
        stranger = Authority.make()
        async with run_service(mutual) as service:
            for shown in (
                authority.credentials(),
                grpc.ssl_channel_credentials(authority.root.pem, *_pair(stranger.sign(SPIFFE_ID))),
                authority.credentials(authority.sign(SPIFFE_ID, life=-DAY / 24)),
                None,
            ):
                assert await answer(service, shown) is StatusCode.UNAVAILABLE

            for names in (["spiffe://example.com/other"], ["other.test"], []):
                shown = authority.credentials(authority.sign(*names))
                async with connected(service, shown) as channel:
                    assert await refusal(ask(channel)) == UNKNOWN

    @pytest.mark.parametrize(
        ("common_name", "names"),
        [
            ("ops.test", []),
            ("ops.test", ["other.test"]),
            (SPIFFE_ID, []),
            ("leaf", [x509.UniformResourceIdentifier("ops.test")]),
            ("leaf", [x509.RFC822Name("ops.test")]),
            ("leaf", [x509.DNSName(SPIFFE_ID)]),
        ],
    )
    async def test_names_of_other_kinds_are_no_caller(self, mutual, authority, common_name, names):
        async with run_service(mutual) as service:
            shown = authority.credentials(authority.sign(*names, common_name=common_name))
            assert await answer(service, shown) is StatusCode.UNAUTHENTICATED

    async def test_unknown_certificate_with_token_is_caller_of_token(
        self, mutual, authority, operator
    ):
        async with run_service(mutual) as service:
            shown = authority.credentials(authority.sign("other.test"))
            assert await answer(service, shown, operator) is StatusCode.OK

    async def test_certificate_and_token_of_two_callers_are_refused(
        self, mutual, authority, callers
    ):
        other = callers.add("other", [Role.ADMIN], LIFE)
        async with run_service(mutual) as service:
            shown = authority.credentials(authority.sign(SPIFFE_ID))
            async with connected(service, shown) as channel:
                assert await refusal(ask(channel, other)) == UNKNOWN
                assert await refusal(ask(channel, CallerToken.issue())) == UNKNOWN

    async def test_unix_socket_needs_no_client_certificate(self, mutual, operator, tmp_path):
        mine = listening(mutual, f"unix:{tmp_path}/s", "127.0.0.1:0")
        async with run_service(mine) as service:
            assert await answer(service, None, operator) is StatusCode.OK
            assert await answer(service) is StatusCode.UNAUTHENTICATED

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"certificate": b"x"}, "server.pem: contains no certificates in PEM"),
            ({"key": b"x"}, "server.key: contains no private key in PEM"),
            (
                {"key": Authority.make().root.key},
                "server.key: is not the key of the certificate in",
            ),
            ({"key": None}, "server.key cannot be read"),
            ({"life": -DAY}, "server.pem: expired on "),
            ({"client_ca": b""}, "ca.pem: contains no certificates in PEM"),
        ],
    )
    def test_invalid_tls_file_is_reported_in_one_line(self, authority, tmp_path, change, why):
        certificate, key = authority.sign("localhost", life=change.pop("life", DAY)).write(tmp_path)
        files = TlsFiles(certificate, key, tmp_path / "ca.pem")
        files.client_ca.write_bytes(authority.root.pem)
        for name, content in change.items():
            path = getattr(files, name)
            path.unlink() if content is None else path.write_bytes(content)

        with pytest.raises(TlsError) as refused:
            files.read()
        assert why in str(refused.value)
        assert len(str(refused.value).splitlines()) == 1

    @pytest.mark.parametrize("wants", ["encrypted", "mutual"])
    async def test_health_probe_works_over_tls(self, request, wants):
        mine = request.getfixturevalue(wants)
        async with run_service(mine) as service:
            files, address = TlsFiles.find(mine.tls), service.addresses[0]
            assert (
                await asyncio.to_thread(healthcheck.check_health, address, 10, files) == "SERVING"
            )
            plain = await asyncio.to_thread(healthcheck.check_health, address, 10)
            assert plain == f"{address} does not answer (UNAVAILABLE)"

    def test_open_address_without_tls_or_callers_is_refused(
        self, tmp_path, authority, operator, file
    ):
        certificate, key = authority.sign("localhost").write(tmp_path)
        tls = {"TAMATAR_TLS_CERTIFICATE_FILE": str(certificate), "TAMATAR_TLS_KEY_FILE": str(key)}
        named = {"TAMATAR_CALLERS_FILE": str(file)}
        for given, missing in (
            ({}, "TAMATAR_TLS_CERTIFICATE_FILE, TAMATAR_TLS_KEY_FILE, TAMATAR_CALLERS_FILE"),
            (tls, "TAMATAR_CALLERS_FILE"),
            (named, "TAMATAR_TLS_CERTIFICATE_FILE, TAMATAR_TLS_KEY_FILE"),
        ):
            open_to_all = {"TAMATAR_LISTEN": "0.0.0.0:0", **given}
            said = tamatar("serve", cwd=tmp_path, code=2, **open_to_all).stderr
            (line,) = said.splitlines()[1:]
            assert line.startswith(
                "TAMATAR_LISTEN (environment): 0.0.0.0:0 can be reached from other"
            )
            assert line.endswith(f" set {missing}, or use a loopback address or a unix socket")


class TestErrors:
    """Files and keys that are refused."""

    def test_unsupported_private_key_is_refused(self, tmp_path):
        certificate, key = Authority.make().sign("localhost").write(tmp_path)
        files = TlsFiles(certificate, key, None)
        loaded = form.load_pem_private_key(key.read_bytes(), None)
        kinds = {
            "must not be protected": (loaded, form.BestAvailableEncryption(b"hunter2")),
            "must be ECDSA": (ed25519.Ed25519PrivateKey.generate(), form.NoEncryption()),
        }
        for why, (private, encryption) in kinds.items():
            key.write_bytes(
                private.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, encryption)
            )
            with pytest.raises(TlsError, match=why):
                files.read()

    @pytest.mark.parametrize("kind", ["callers", "tls"])
    def test_invalid_credential_file_fails_start_in_one_line(self, tmp_path, kind, file, authority):
        _, key = authority.sign("localhost").write(tmp_path)
        wrong = {
            "callers": {"TAMATAR_CALLERS_FILE": str(file)},
            "tls": {"TAMATAR_TLS_CERTIFICATE_FILE": str(key), "TAMATAR_TLS_KEY_FILE": str(key)},
        }[kind]
        ended = tamatar(
            "serve",
            cwd=tmp_path,
            code=2,
            TAMATAR_DATABASE_URL="postgresql://127.0.0.1:1/x",
            **wrong,
        )

        (line,) = ended.stderr.splitlines()
        assert line.startswith(str(file if kind == "callers" else key))


class TestProbes:
    """Health probes and the doctor."""

    async def test_health_probe_prefers_unix_socket(self, mutual, tmp_path):
        mine = listening(mutual, "127.0.0.1:0", f"unix:{tmp_path}/s")
        assert str(healthcheck.probed_address(mine)) == f"unix:{tmp_path}/s"
        async with run_service(mine):
            asked = (
                healthcheck.check_health,
                healthcheck.probed_address(mine),
                10,
                TlsFiles.find(mine.tls),
            )
            assert await asyncio.to_thread(*asked) == "SERVING"

    def test_doctor_checks_callers_and_certificate(self, tmp_path, file, callers, authority):
        certificate, key = authority.sign("localhost", life=30 * DAY).write(tmp_path)
        callers.add("gateway", [Role.VALIDATOR], LIFE)
        given = {
            "TAMATAR_LISTEN": f"unix:{tmp_path}/s",
            "TAMATAR_CALLERS_FILE": str(file),
            "TAMATAR_TLS_CERTIFICATE_FILE": str(certificate),
            "TAMATAR_TLS_KEY_FILE": str(key),
        }

        def doctor(code):
            said = tamatar("doctor", cwd=tmp_path, code=code, **given).stdout.splitlines()
            return [line for line in said if line.split()[1] in ("callers", "certificate")]

        well = doctor(code=0)
        assert [line.split()[:2] for line in well] == [["ok", "callers"], ["ok", "certificate"]]

        authority.sign("localhost", life=DAY).write(tmp_path)
        file.chmod(0o666)
        callers.rotate("gateway", timedelta(0), DAY)
        ill = "\n".join(doctor(code=1))
        assert f"other users can write to {file}: run chmod go-w" in ill
        assert "run `tamatar-auth caller rotate gateway`" in ill
        assert "renew it" in ill
        assert ill.count("FAIL") == 3


def _pair(signed):
    return signed.key, signed.pem


async def _count(logs, name):
    return len(events(logs, name))
