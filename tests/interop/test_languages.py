"""The clients in examples/: built by their scripts, and run against servers.

The pages are protos/README.md, examples/go/README.md, examples/java/README.md and
examples/typescript/README.md.
"""

import asyncio
import contextlib
import os
import re
import shutil
from typing import NamedTuple

import grpc
import pytest
from grpc import StatusCode

from tamatar.auth.v1.session_service_pb2 import CreateSessionRequest
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar_auth.client import aio
from tamatar_auth.security.caller_file_editor import CallerFile
from tamatar_auth.security.callers import Role
from tamatar_auth.server.app import run_service
from tests.interop.story import PASSWORD
from tests.support.calls import ada, sign_in, verify
from tests.support.certificates import DAY, Authority
from tests.support.commands import BIN, ROOT, missing_tool, run
from tests.support.example_clients import BUILD_PATIENCE
from tests.support.name_server import name_server
from tests.support.scripted_service import Scripted
from tests.support.settings import changed
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.timeout(BUILD_PATIENCE)

NAME = "auth.test"
SERVERS = ("127.0.0.1", "127.0.0.2")
DEAD = "127.0.0.3"


@pytest.fixture
def token(sample_address):
    """The token of a session of a sample user."""
    with grpc.insecure_channel(sample_address) as channel:
        who = CreateSessionRequest(email="test1@example.com", password=PASSWORD)
        yield SessionServiceStub(channel).CreateSession(who, timeout=PATIENCE).session_token


class Encrypted(NamedTuple):
    """A service that requires TLS and callers, and what its callers need."""

    options: list[str]
    token_file: str
    session_token: str


@pytest.fixture
async def encrypted(settings, database, tmp_path):
    authority, callers = Authority.make(), CallerFile(tmp_path / "callers.toml")
    admin = callers.add("admin", [Role.ADMIN], DAY).text
    token_file = tmp_path / "caller.token"
    token_file.write_text(f"{callers.add('gateway', [Role.VALIDATOR], DAY).text}\n")
    certificate, key = authority.sign("localhost").write(tmp_path)
    root = tmp_path / "ca.pem"
    root.write_bytes(authority.root.pem)
    given = {"tls_certificate_file": certificate, "tls_key_file": key}
    async with run_service(
        changed(settings, callers_file=tmp_path / "callers.toml", **given)
    ) as service:
        address = f"localhost:{service.addresses[0].port}"
        async with aio.connect(address, token=admin, root_certificates=root) as auth:
            await verify(database, (await auth.users.CreateUser(ada())).user)
            started = await auth.sessions.CreateSession(sign_in())
        options = ["--address", address, "--ca", str(root)]
        yield Encrypted(options, str(token_file), started.session_token)


@pytest.fixture
async def scripted_servers():
    """Two scripted servers with the same port at different addresses."""
    async with contextlib.AsyncExitStack() as stack:
        scripts, port = [], 0
        for host in SERVERS:
            server, script = grpc.aio.server(), Scripted()
            server.add_generic_rpc_handlers([script])
            port = server.add_insecure_port(f"{host}:{port}")
            await server.start()
            stack.push_async_callback(server.stop, None)
            script.address, script.server = f"{host}:{port}", server
            scripts.append(script)
        yield scripts


class TestPlaintext:
    """Clients of a service on the same machine."""

    def test_client_prints_user_or_reason_of_each_session(self, client, sample_address, token):
        options = ["--address", sample_address, "--plaintext"]

        said = client.validate(token, "tms_unknown", token, options=options, code=1)
        assert said == [
            "test1@example.com",
            "SESSION_UNKNOWN: The session is not known.",
            "test1@example.com",
        ]
        assert client.validate(token, options=options, code=0) == ["test1@example.com"]

    def test_client_signs_in_by_password(self, client, sample_address):
        options = ["--address", sample_address, "--plaintext", "--email", "test1@example.com"]

        said = client.validate("not the password", PASSWORD, options=options, code=1)

        assert said[0].startswith("INVALID_CREDENTIALS: ")
        assert said[1] == "test1@example.com"

    def test_wrong_options_are_explained(self, client, tmp_path):
        local = ("--address", "127.0.0.1:1")
        (tmp_path / "other.pem").write_text("no certificate\n")

        assert "-address" in client.refuse("--unknown")
        assert "leave out --ca" in client.refuse(*local, "--plaintext", "--ca", "ca.pem")
        assert "missing.pem" in client.refuse(*local, "--ca", "missing.pem")
        assert "other.pem: " in client.refuse(*local, "--ca", str(tmp_path / "other.pem"))

    def test_unreachable_service_is_named_by_status(self, client):
        options = ["--address", f"{DEAD}:1", "--plaintext"]

        (said,) = client.validate("tms_unknown", options=options, code=1)

        assert said.upper().startswith("UNAVAILABLE: ")
        assert "refused" in said.lower()

    def test_unknown_name_is_reported_in_one_line(self, client):
        ended = client.run("tms_x", options=["--address", "unknown.invalid:1", "--plaintext"])

        (said,) = ended.stdout.upper().splitlines()
        assert said.startswith("UNAVAILABLE: ")
        assert not said.startswith("UNAVAILABLE: UNAVAILABLE")
        assert ended.stderr == ""

    def test_line_of_any_length_is_answered_or_reported(self, client, sample_address):
        options = ["--address", sample_address, "--plaintext"]

        ended = client.run("t" * 70_000, "tms_unknown", options=options)

        assert ended.returncode
        assert "SESSION_UNKNOWN" in ended.stdout or "too long" in ended.stderr


class TestEncrypted:
    """Clients of a service that requires TLS and callers."""

    async def test_client_with_callers_token_validates_session(self, client, encrypted):
        options = [*encrypted.options, "--token-file", encrypted.token_file]

        said = await asyncio.to_thread(
            client.validate, encrypted.session_token, "tms_unknown", options=options, code=1
        )

        assert said == ["ada@example.com", "SESSION_UNKNOWN: The session is not known."]

    async def test_commands_of_page_validate_sessions(
        self, client, encrypted, sample_address, tmp_path
    ):
        _, address, _, root = encrypted.options
        page = (ROOT / "examples" / client.name / "README.md").read_text()
        (commands,) = re.findall(r"(?ms)^```console\n(.*?)^```$", page)
        tokens = tmp_path / "tokens.txt"
        tokens.write_text(f"{encrypted.session_token}\n")
        for written, real in (
            ("127.0.0.1:50051", sample_address),
            ("auth.example.com:50051", address),
            ("ca.pem", root),
            ("caller.token", encrypted.token_file),
            (tokens.name, str(tokens)),
        ):
            assert written in commands
            commands = commands.replace(written, real)

        ended = await asyncio.to_thread(run, "sh", "-ec", commands, cwd=client.folder)

        assert ended.stdout.splitlines() == ["test1@example.com", "ada@example.com"]

    async def test_client_without_callers_token_is_refused(self, client, encrypted):
        (said,) = await asyncio.to_thread(
            client.validate, encrypted.session_token, options=encrypted.options, code=1
        )

        assert said.startswith("CALLER_UNKNOWN: ")

    async def test_client_without_trusted_certificate_does_not_connect(self, client, encrypted):
        _, address, *_ = encrypted.options
        options = ["--address", address, "--token-file", encrypted.token_file]

        (said,) = await asyncio.to_thread(client.validate, "tms_x", options=options, code=1)

        assert said.upper().startswith("UNAVAILABLE: ")


class TestServiceConfig:
    """What clients do by the service config."""

    async def test_failed_call_is_retried_within_deadline(self, client, scripted_servers):
        first, _ = scripted_servers
        first.refusals = [StatusCode.UNAVAILABLE, StatusCode.CANCELLED]
        options = ["--address", first.address, "--plaintext"]

        assert await asyncio.to_thread(client.validate, "tms_x", options=options, code=0) == [""]

        assert [each.method for each in first.asked] == ["ValidateSession"] * 3
        assert all(0 < each.remaining < PATIENCE + 1 for each in first.asked)

    async def test_client_calls_all_live_servers_of_a_name(
        self, client, scripted_servers, tmp_path
    ):
        first, second = scripted_servers
        _, _, port = first.address.partition(":")
        hosts = tmp_path / "hosts"
        hosts.write_text("".join(f"{address} {NAME}\n" for address in (*SERVERS, DEAD)))

        # The clients in Go and TypeScript use a name server, the one in Java a file.
        with_names = {
            "JAVA_TOOL_OPTIONS": f"-Djdk.net.hosts.file={hosts}",
            "GRPC_NODE_USE_ALTERNATIVE_RESOLVER": "true",
        }

        def call_all(name_server):
            authority = "" if client.name == "java" else name_server
            options = ("--address", f"dns://{authority}/{NAME}:{port}", "--plaintext")
            with client.running(*options, **with_names) as validate:
                until(lambda: validate("tms_x") == "" and first.asked and second.asked)
                asyncio.run_coroutine_threadsafe(second.server.stop(PATIENCE), loop).result()
                return [validate("tms_x") for _ in range(6)]

        loop = asyncio.get_running_loop()
        with name_server(NAME, [*SERVERS, DEAD]) as address:
            said = await asyncio.to_thread(call_all, address)

        assert said == [""] * 6


def test_protoc_compiles_protos_by_commands_of_page(tmp_path):
    shutil.which("protoc") or missing_tool("protoc is missing: .ci/run installs it")
    page = (ROOT / "protos/README.md").read_text()
    commands = "".join(re.findall(r"(?ms)^```console\n(.*?)^```$", page))
    shutil.copytree(ROOT / "protos/tamatar", tmp_path / "tamatar")

    path = os.pathsep.join([str(BIN), os.environ["PATH"]])
    run("sh", "-ec", commands, cwd=tmp_path, PATH=path)

    package = tmp_path / "gen/dev/tamatar/auth/v1"
    assert "The session's token." in (package / "ValidateSessionRequest.java").read_text()


def test_lock_files_name_no_registry():
    lock = (ROOT / "examples/typescript/package-lock.json").read_text()

    assert '"resolved"' not in lock
    assert '"integrity"' in lock
