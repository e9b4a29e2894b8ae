"""How the calls of a server are taken."""

import asyncio
import threading

import grpc
import pytest
from grpc import StatusCode

from tamatar_auth.accepting import new_server
from tamatar_auth.server import running
from tamatar_auth.services import AnsweredMethods
from tests.waiting import rest

MANY = 200


async def test_calls_of_a_method_wait_behind_none_of_others():
    taken = []

    async def other(_request, _context):
        taken.append("other")
        return b""

    async def single(_request, _context):
        taken.append("single")
        return b""

    server = new_server([])
    methods = AnsweredMethods(server, [])
    handlers = {"Other": other, "Single": single}
    methods.add_registered_method_handlers(
        "t.Service",
        {name: grpc.unary_unary_rpc_method_handler(each) for name, each in handlers.items()},
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sent = threading.Event()

    def call():
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            grpc.channel_ready_future(channel).result(30)
            loop.call_soon_threadsafe(sent.wait, 30)  # nothing is taken until all have come
            calls = [channel.unary_unary("/t.Service/Other").future(b"") for _ in range(MANY)]
            calls.append(channel.unary_unary("/t.Service/Single").future(b""))
            rest(1)
            sent.set()
            return [each.result(30) for each in calls]

    loop = asyncio.get_running_loop()
    assert len(await asyncio.to_thread(call)) == MANY + 1
    await server.stop(None)

    assert taken.index("single") < MANY / 4


@pytest.mark.parametrize("path", [b"/\xff/x", b"/t.Service/\xc3\x28", b"/t.Service/None", b"//"])
async def test_what_is_no_method_is_unimplemented_whatever_its_path(path):
    async def answer(_request, _context):
        return b""

    server = new_server([])
    handlers = {"Known": grpc.unary_unary_rpc_method_handler(answer)}
    AnsweredMethods(server, []).add_registered_method_handlers("t.Service", handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        for _ in range(3):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await channel.unary_unary(path)(b"", timeout=30)
            assert raised.value.code() is StatusCode.UNIMPLEMENTED
        assert await channel.unary_unary("/t.Service/Known")(b"", timeout=30) == b""
    await server.stop(None)
    assert not await server.wait_for_termination(30)


async def test_a_server_that_was_not_told_to_end_is_a_fault(settings, database):
    async with running(settings) as service:
        watching = asyncio.create_task(service.failed())
        await asyncio.sleep(0)
        await service.server.stop(None)

        with pytest.raises(RuntimeError, match="gRPC has ended a server"):
            await asyncio.wait_for(watching, 30)
