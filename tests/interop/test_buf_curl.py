"""buf curl over reflection: connect-go, the other gRPC stack in Go."""

import base64
import json

import pytest
from google.rpc.error_details_pb2 import ErrorInfo

from tests.interop.story import make_first_calls, read_answer
from tests.support.commands import BIN, run


@pytest.fixture
def curl(sample_address, tmp_path):
    def curl(*arguments, path="", code=0):
        grpc = ("curl", "--protocol", "grpc", "--http2-prior-knowledge", *arguments)
        home = {"BUF_CACHE_DIR": str(tmp_path)}
        return run(
            BIN / "buf", *grpc, f"http://{sample_address}/{path}", cwd=tmp_path, code=code, **home
        )

    return curl


@pytest.fixture
def call(curl):
    def call(method, request):
        path = f"tamatar.auth.v1.{method}"
        ended = curl("--data", json.dumps(request), path=path, code=None)
        if ended.returncode == 0:
            return read_answer(method, ended.stdout)
        status = json.loads(ended.stderr)
        (detail, *_) = status["details"]
        assert detail["type"] == "google.rpc.ErrorInfo"
        info = ErrorInfo.FromString(base64.b64decode(detail["value"] + "=="))
        return status["code"].upper(), info.reason

    return call


def test_first_calls_with_buf_curl_succeed(call):
    make_first_calls(call)


def test_buf_curl_lists_services_and_methods(curl):
    assert "tamatar.auth.v1.SessionService" in curl("--list-services").stdout.split()
    methods = curl("--list-methods").stdout.split()
    assert {"tamatar.auth.v1.UserService/CreateUser", "grpc.health.v1.Health/List"} <= set(methods)


def test_buf_curl_reads_health(curl):
    assert json.loads(curl(path="grpc.health.v1.Health/Check").stdout) == {"status": "SERVING"}
