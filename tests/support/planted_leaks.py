"""Tests that leak secrets. `test_canaries.py` runs them to check that leaks are found."""

import sys

import grpc
import pytest
import structlog
from google.protobuf.any_pb2 import Any
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from tamatar.auth.v1.user_service_pb2_grpc import (
    UserServiceServicer,
    UserServiceStub,
    add_UserServiceServicer_to_server,
)
from tests.support.calls import NEW_PASSWORD, PASSWORD, ada
from tests.support.canaries import PAGE_TOKEN_KEY, PASSWORD_KEY
from tests.support.commands import serving
from tests.support.rows import new_token
from tests.support.telemetry_capture import Recording, logged

INTERNAL = grpc.StatusCode.INTERNAL


class Leaking(UserServiceServicer):
    """Refuses a creation and leaks a secret in one of several ways."""

    def __init__(self, way):
        self._way = way

    async def CreateUser(self, request, context):
        await self._way(request, context)


async def by_message(request, context):
    await context.abort(INTERNAL, f"wrong: {request.password}")


async def by_details(_request, context):
    detail = Any()
    detail.Pack(ErrorInfo(reason="WRONG", metadata={"password": NEW_PASSWORD}))
    status = Status(code=13, message="wrong", details=[detail])
    await context.abort_with_status(rpc_status.to_status(status))


async def by_metadata(_request, context):
    context.set_trailing_metadata([("password", PASSWORD)])
    await context.abort(INTERNAL, "wrong")


@pytest.mark.parametrize("way", [by_message, by_details, by_metadata])
async def test_leak_in_status(way):
    server = grpc.aio.server()
    add_UserServiceServicer_to_server(Leaking(way), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(grpc.RpcError):
            await UserServiceStub(channel).CreateUser(ada(password="known to one test"))
    await server.stop(None)


def test_leak_in_log_line():
    with structlog.testing.capture_logs():
        structlog.get_logger("tamatar_auth").debug("event", token=new_token().text)


def test_leak_in_service_log(settings):
    with logged(settings):
        structlog.get_logger("tamatar_auth").info("event", key=PAGE_TOKEN_KEY)


def test_leak_in_span():
    Recording().tracer.start_span("event", attributes={"hash": "$2b$12$"}).end()


def test_leak_in_server_output(tmp_path):
    with serving(
        cwd=tmp_path, command=(sys.executable, "-c", f"print({PASSWORD_KEY!r})")
    ) as server:
        server.ended()


def test_no_leak():
    structlog.get_logger("tamatar_auth").info("event", token="tms_", password=None)
