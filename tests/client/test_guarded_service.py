"""The guarded service of examples/, as a separate process beside two of the service."""

import contextlib
import os
import signal
import subprocess
from uuid import uuid4

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from tamatar.auth.v1.session_service_pb2 import CreateSessionRequest, RevokeSessionRequest
from tamatar_auth import client
from tests.support.commands import (
    ROOT,
    SAMPLE_PASSWORD,
    environment,
    interruptible,
    serving,
)
from tests.support.databases import TEMPLATE
from tests.support.waiting import PATIENCE, until

EXAMPLE = ROOT / "examples" / "guarded_service.py"
SIGN_IN = CreateSessionRequest(email="test1@example.com", password=SAMPLE_PASSWORD)


@pytest.fixture(scope="module")
def two(postgres, tmp_path_factory):
    """Two processes of the service on one database, which has the sample users."""
    name = f"guarded_{uuid4().hex}"
    url = postgres.create(name, TEMPLATE)
    folders = [tmp_path_factory.mktemp("server") for _ in range(2)]
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(serving("--dev", cwd=folder, TAMATAR_DATABASE_URL=url))
            for folder in folders
        ]
    postgres.drop(name)


@contextlib.contextmanager
def guarded(address, folder):
    """Run the example; yield a function that returns the user of a token."""
    said = folder / "said"
    with said.open("wb") as output:
        process = subprocess.Popen(
            interruptible(EXAMPLE, address, "127.0.0.1:0"),
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        until(lambda: said.read_text().endswith("\n") or process.poll() is not None)
        port = said.read_text().split()[-1]
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            method = channel.unary_unary(
                "/example.Shop/WhoAmI", StringValue.SerializeToString, StringValue.FromString
            )
            yield lambda token: asked(method, token)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
        assert said.read_text().startswith("listening on port ")
        assert said.read_text().count("\n") == 1
    finally:
        process.kill()
        process.wait()


def asked(method, token):
    """Return the signed-in user, or the status of the refusal."""
    try:
        answer = method(
            StringValue(), metadata=(("authorization", f"Bearer {token}"),), timeout=PATIENCE
        )
    except grpc.RpcError as error:
        return f"{error.code().name}: {error.details()}"
    return answer.value


def test_guarded_service_ends_on_ctrl_c_without_traceback(two, tmp_path):
    with guarded(two[0].addresses[0], tmp_path) as who:
        assert who("tms_unknown") == "UNAUTHENTICATED: The session is not known."


def test_session_revoked_on_one_server_is_refused_on_other(two, tmp_path):
    (one,), (other,) = (server.addresses for server in two)
    with client.connect(other) as auth, guarded(one, tmp_path) as who:
        for _ in range(5):
            token = auth.sessions.CreateSession(SIGN_IN).session_token
            assert [who(token) for _ in range(20)] == ["test1@example.com"] * 20

            auth.sessions.RevokeSession(RevokeSessionRequest(session_token=token))

            until(lambda: who(token) == "UNAUTHENTICATED: The session was revoked.")  # noqa: B023
            assert "revoked" in who(token)
        assert who("tms_unknown") == "UNAUTHENTICATED: The session is not known."


def test_guard_continues_when_one_process_is_killed(two, tmp_path):
    ports = [server.addresses[0].removeprefix("127.0.0.1:") for server in two]
    both = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
    with client.connect(two[1].addresses[0]) as auth, guarded(both, tmp_path) as who:
        kept, revoked = (auth.sessions.CreateSession(SIGN_IN).session_token for _ in range(2))
        assert {who(token) for token in (kept, revoked) * 20} == {"test1@example.com"}

        os.kill(two[0].process.pid, 9)
        two[0].process.wait()
        auth.sessions.RevokeSession(RevokeSessionRequest(session_token=revoked))

        until(lambda: "revoked" in who(revoked))
        assert {who(kept) for _ in range(20)} == {"test1@example.com"}
