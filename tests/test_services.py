"""What AnsweredMethods makes of the methods of a server."""

import asyncio
import threading
import time

import grpc

from tamatar_auth import services
from tamatar_auth.services import AnsweredMethods

MANY = 200


async def test_urgent_calls_are_taken_before_others_that_came_earlier(monkeypatch):
    monkeypatch.setattr(services, "URGENT", {("t.Service", "Urgent")})
    taken = []

    async def other(_request, _context):
        taken.append("other")
        return b""

    async def urgent(_request, _context):
        taken.append("urgent")
        return b""

    server = grpc.aio.server()
    methods = AnsweredMethods(server, [])
    handlers = {"Other": other, "Urgent": urgent}
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
            calls.append(channel.unary_unary("/t.Service/Urgent").future(b""))
            time.sleep(1)
            sent.set()
            return [each.result(30) for each in calls]

    loop = asyncio.get_running_loop()
    assert len(await asyncio.to_thread(call)) == MANY + 1
    await server.stop(None)

    assert taken.index("urgent") < MANY / 4
