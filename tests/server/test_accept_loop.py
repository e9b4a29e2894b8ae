"""The accept loop: the order in which a server takes its calls."""

import asyncio
import subprocess
import sys
import threading
import tomllib

import grpc
import pytest
from grpc import StatusCode
from packaging.requirements import Requirement

from tamatar_auth.cli.local import doctor
from tamatar_auth.interceptors.registry import HandlerRegistry
from tamatar_auth.server import grpcio_release
from tamatar_auth.server.accept_loop import new_server
from tamatar_auth.server.app import run_service
from tests.support.commands import ROOT
from tests.support.waiting import PATIENCE, rest

MANY = 400


@pytest.fixture
async def queued():
    """Return a function that queues calls at a busy server, and acts once it is not.

    It returns the errors of the calls, and the methods in the order in which they started.
    """
    begun = []

    def answering(name):
        async def answer(_request, _context):
            begun.append(name)
            await asyncio.sleep(0.1)
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)

    server = new_server([], ["/t.Service/Favoured"])
    handlers = {name: answering(name) for name in ("Other", "Single", "Favoured")}
    HandlerRegistry(server, []).add_registered_method_handlers("t.Service", handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    loop, sent, tasks = asyncio.get_running_loop(), threading.Event(), []

    def calls(names, then):
        def keep_busy():
            sent.wait(PATIENCE)
            tasks.append(loop.create_task(then(server)))

        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            methods = {name: channel.unary_unary(f"/t.Service/{name}") for name in handlers}
            methods["Single"](b"", wait_for_ready=True, timeout=PATIENCE)
            loop.call_soon_threadsafe(keep_busy)
            made = [methods[name].future(b"") for name in names]
            rest(1)
            sent.set()
            return [each.exception(PATIENCE) for each in made]

    async def have(*names, then=nothing):
        raised = await asyncio.to_thread(calls, names, then)
        await asyncio.gather(*tasks)
        return raised, begun[1:]

    yield have
    await server.stop(None)


async def nothing(_server):
    pass


async def stop(server):
    await server.stop(PATIENCE)


async def test_calls_of_one_method_do_not_wait_behind_others(queued):
    raised, begun = await queued(*["Other"] * MANY, "Single")

    assert raised == [None] * (MANY + 1)
    assert begun.index("Single") < MANY / 4


async def test_favoured_method_takes_more_calls_at_once(queued):
    _, begun = await queued(*["Other", "Favoured"] * (MANY // 2))

    first = begun[: MANY // 4]
    assert first.count("Favoured") > 2 * first.count("Other")


async def test_calls_queued_at_stop_are_answered(queued):
    raised, begun = await queued(*["Other"] * MANY, then=stop)

    assert raised == [None] * MANY
    assert begun == ["Other"] * MANY


@pytest.mark.parametrize("path", [b"/\xff/x", b"/t.Service/\xc3\x28", b"/t.Service/None", b"//"])
async def test_invalid_path_is_unimplemented(path):
    async def answer(_request, _context):
        return b""

    server = new_server([])
    handlers = {"Known": grpc.unary_unary_rpc_method_handler(answer)}
    HandlerRegistry(server, []).add_registered_method_handlers("t.Service", handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        for _ in range(3):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await channel.unary_unary(path)(b"", timeout=PATIENCE)
            assert raised.value.code() is StatusCode.UNIMPLEMENTED
        assert await channel.unary_unary("/t.Service/Known")(b"", timeout=PATIENCE) == b""
    await server.stop(None)
    assert not await server.wait_for_termination(30)


async def test_server_ended_by_grpc_is_reported_as_failure(settings, database):
    async with run_service(settings) as service:
        watching = asyncio.create_task(service.wait_for_failure())
        await asyncio.sleep(0)
        await service.server.stop(None)

        with pytest.raises(RuntimeError, match="gRPC has ended a server"):
            await asyncio.wait_for(watching, PATIENCE)


def test_tried_grpcio_is_the_release_that_the_server_extra_pins():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = map(Requirement, project["optional-dependencies"]["server"])
    (pinned,) = (pin.specifier for pin in pins if pin.name == "grpcio")

    major, minor = map(int, grpcio_release.TRIED.split("."))
    assert pinned.contains(f"{major}.{minor}.0")
    assert pinned.contains(f"{major}.{minor}.99")
    assert not pinned.contains(f"{major}.{minor - 1}.99")
    assert not pinned.contains(f"{major}.{minor + 1}.0")


def test_doctor_with_another_grpcio_says_what_to_install(monkeypatch):
    monkeypatch.setattr(grpcio_release, "TRIED", "9.9")

    finding = doctor._grpcio()

    assert not finding.ok
    assert "install grpcio 9.9" in finding.text


# Counts how often grpcio reads its wake-up socket while one turn of the loop has many events.
COUNTING_READS = """
import asyncio, socket, sys, time
import grpc
from tamatar_auth.server import grpcio_release, wake_up_socket
from tamatar_auth.server.accept_loop import new_server

grpcio_release.TRIED = sys.argv[1] or grpcio_release.TRIED
reads = []

class Counting(wake_up_socket._DrainedSocket):
    def recv(self, *arguments):
        reads.append(super().recv(*arguments))
        return reads[-1]

wake_up_socket._DrainedSocket = Counting

async def main():
    server = new_server([])

    async def answer(request, context):
        return b""

    handlers = {"Any": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_registered_method_handlers("t.Service", handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        method = channel.unary_unary("/t.Service/Any")
        await method(b"", wait_for_ready=True)
        reads.clear()
        calls = [asyncio.ensure_future(method(b"")) for _ in range(100)]
        await asyncio.sleep(0)
        time.sleep(1)
        await asyncio.gather(*calls)
    print(max(map(len, reads), default=0))
    await server.stop(None)

asyncio.run(main())
"""


@pytest.mark.parametrize(("tried", "drained"), [("", True), ("9.9", False)])
def test_wake_ups_of_a_tried_grpcio_are_read_at_once(tried, drained):
    command = (sys.executable, "-c", COUNTING_READS, tried)
    most = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE)

    assert (int(most.stdout) > 1) is drained
