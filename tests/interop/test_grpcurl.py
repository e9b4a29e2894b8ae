"""grpcurl over reflection: a client in Go without generated stubs."""

import json

import grpc
import pytest

from tests.interop.story import make_first_calls, read_answer
from tests.support.commands import find_grpcurl, run

STATUS_BASE = 64
"""The number that grpcurl adds to a status for its exit code."""


@pytest.fixture
def grpcurl(sample_address, tmp_path):
    """Return a function that runs grpcurl with the server's address among its arguments."""
    program = find_grpcurl()

    def grpcurl(*arguments, code=0):
        options, target = arguments[:-1], arguments[-1].split()
        return run(
            program, "-plaintext", *options, sample_address, *target, cwd=tmp_path, code=code
        )

    return grpcurl


@pytest.fixture
def call(grpcurl):
    def call(method, request):
        ended = grpcurl(
            "-format-error", "-d", json.dumps(request), f"tamatar.auth.v1.{method}", code=None
        )
        if ended.returncode == 0:
            return read_answer(method, ended.stdout)
        status = json.loads(ended.stderr)
        assert ended.returncode == STATUS_BASE + status["code"]
        (info, *_) = status["details"]
        name = next(each.name for each in grpc.StatusCode if each.value[0] == status["code"])
        return name, info["reason"]

    return call


def test_first_calls_with_grpcurl_succeed(call):
    make_first_calls(call)


def test_grpcurl_lists_and_describes_services(grpcurl):
    services = grpcurl("list").stdout.split()
    assert "tamatar.auth.v1.UserService" in services

    for service in services:
        (described, *methods) = grpcurl(f"describe {service}").stdout.splitlines()[:2]
        assert described == f"{service} is a service:"
        assert methods
        for method in grpcurl(f"list {service}").stdout.split():
            assert f"{method} is a method:" in grpcurl(f"describe {method}").stdout


def test_grpcurl_describes_field_rules(grpcurl):
    described = grpcurl("describe tamatar.auth.v1.CreateSessionRequest").stdout

    assert "(.buf.validate.oneof) = { required: true }" in described
    assert "max_len: 256" in described


def test_grpcurl_reads_health(grpcurl):
    for service in ("", "tamatar.auth.v1.UserService"):
        request = json.dumps({"service": service})
        assert json.loads(grpcurl("-d", request, "grpc.health.v1.Health/Check").stdout) == {
            "status": "SERVING"
        }
