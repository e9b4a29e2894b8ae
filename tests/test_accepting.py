"""How the calls of a server are taken."""

import asyncio
import threading

import grpc
import pytest
from grpc import StatusCode

from tamatar_auth.accepting import new_server
from tamatar_auth.server import running
from tamatar_auth.services import AnsweredMethods
from tests.waiting import PATIENCE, rest

MANY = 400


@pytest.fixture
async def queued():
    """Have many calls come to a server whose loop is busy, and do something as soon as it is not.

    Return what the calls said in the order in which they came, and which were answered in which
    order.
    """
    answered = []

    async def other(_request, _context):
        answered.append("other")
        await asyncio.sleep(0.1)
        return b""

    async def single(_request, _context):
        answered.append("single")
        return b""

    server = new_server([])
    handlers = {"Other": other, "Single": single}
    AnsweredMethods(server, []).add_registered_method_handlers(
        "t.Service",
        {name: grpc.unary_unary_rpc_method_handler(each) for name, each in handlers.items()},
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    loop, sent, tasks = asyncio.get_running_loop(), threading.Event(), []

    def calls(then):
        def keep_busy():
            sent.wait(PATIENCE)
            tasks.append(loop.create_task(then(server)))

        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            other = channel.unary_unary("/t.Service/Other")
            other(b"", wait_for_ready=True, timeout=PATIENCE)
            loop.call_soon_threadsafe(keep_busy)
            made = [other.future(b"") for _ in range(MANY)]
            made.append(channel.unary_unary("/t.Service/Single").future(b""))
            rest(1)
            sent.set()
            return [each.exception(PATIENCE) for each in made]

    async def have(then):
        said = await asyncio.to_thread(calls, then)
        await asyncio.gather(*tasks)
        return said, answered[1:]

    yield have
    await server.stop(None)


async def nothing(_server):
    pass


async def stop(server):
    await server.stop(PATIENCE)


async def test_calls_of_a_method_wait_behind_none_of_others(queued):
    said, answered = await queued(nothing)

    assert said == [None] * (MANY + 1)
    assert answered.index("single") < MANY / 4


async def test_calls_that_had_come_when_a_server_stops_are_answered(queued):
    said, answered = await queued(stop)

    assert said[:MANY] == [None] * MANY
    assert answered.count("other") == MANY


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
