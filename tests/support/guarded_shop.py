"""A guarded service of a caller: it answers all four kinds of calls with the user's address."""

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor

import grpc

from tamatar_auth import client
from tamatar_auth.client import SessionGuard, aio, find_current_session
from tests.support.calls import refusal

SHOP = "/shop.v1.Shop/"
KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


def who():
    """Return the signed-in user's address, as a handler sees it."""
    session = find_current_session()
    return session.user.email.encode() if session else b"anonymous"


class Blocking:
    """Handlers that are functions and generators."""

    def unary_unary(self, request, _context):
        return who() + b" " + request

    def unary_stream(self, request, _context):
        for _ in range(int(request)):
            yield who()

    def stream_unary(self, requests, _context):
        return b",".join(who() + b" " + each for each in requests)

    def stream_stream(self, requests, _context):
        for each in requests:
            yield who() + b" " + each


class Asyncio:
    """The same handlers as coroutines and asynchronous generators."""

    async def unary_unary(self, request, _context):
        await asyncio.sleep(0)
        return who() + b" " + request

    async def unary_stream(self, request, _context):
        for _ in range(int(request)):
            await asyncio.sleep(0)
            yield who()

    async def stream_unary(self, requests, _context):
        return b",".join([who() + b" " + each async for each in requests])

    async def stream_stream(self, requests, _context):
        async for each in requests:
            yield who() + b" " + each


class Writing(Asyncio):
    """The same handlers as coroutines that read and write the stream."""

    async def unary_stream(self, request, context):
        for _ in range(int(request)):
            await context.write(who())

    async def stream_unary(self, _requests, context):
        answers_ = []
        while (each := await context.read()) is not grpc.aio.EOF:
            answers_.append(who() + b" " + each)
        return b",".join(answers_)

    async def stream_stream(self, _requests, context):
        while (each := await context.read()) is not grpc.aio.EOF:
            await context.write(who() + b" " + each)


def handlers(shop):
    """Return the handlers of a shop, by the names of their kinds."""
    made = {
        kind: getattr(grpc, f"{kind}_rpc_method_handler")(getattr(shop, kind)) for kind in KINDS
    }
    also = dict.fromkeys(("Open", "Optional"), made["unary_unary"])
    return grpc.method_handlers_generic_handler("shop.v1.Shop", made | also)


@contextlib.asynccontextmanager
async def blocking_shop(guard):
    """Run a shop on threads; yield its address."""
    with ThreadPoolExecutor(8) as threads:
        server = grpc.server(threads, interceptors=[guard])
        server.add_generic_rpc_handlers([handlers(Blocking())])
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            yield address
        finally:
            await asyncio.to_thread(server.stop(None).wait)


@contextlib.asynccontextmanager
async def aio_shop(guard, shop):
    """Run a shop on this event loop; yield its address."""
    server = grpc.aio.server(interceptors=[guard])
    server.add_generic_rpc_handlers([handlers(shop)])
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield address
    finally:
        await server.stop(None)


SHOPS = {
    "blocking": None,
    "coroutines": Asyncio,
    "coroutines that write": Writing,
    "blocking on asyncio": Blocking,
}


@contextlib.asynccontextmanager
async def shop(kind, address, *, own_token=None, **options):
    """Yield a channel to a shop whose guard calls the service at an address."""
    async with contextlib.AsyncExitStack() as stack:
        if SHOPS[kind] is None:
            auth = stack.enter_context(client.connect(address, token=own_token))
            guard = SessionGuard(auth, **options)
            stack.push_async_callback(asyncio.to_thread, guard.close)
            running = blocking_shop(guard)
        else:
            auth = await stack.enter_async_context(aio.connect(address, token=own_token))
            guard = aio.SessionGuard(auth, **options)
            stack.push_async_callback(guard.close)
            running = aio_shop(guard, SHOPS[kind]())
        at = await stack.enter_async_context(running)
        yield await stack.enter_async_context(grpc.aio.insecure_channel(at))


async def each(requests):
    for request in requests:
        yield request


async def never():
    await asyncio.Event().wait()
    yield b""


class Customer:
    """Calls a shop with a token."""

    def __init__(self, channel, token=None, key="authorization", scheme="Bearer "):
        self._channel = channel
        self.metadata = ((key, scheme + token),) if token is not None else ()

    async def refused(self, kind):
        """Make a call that must fail, and return its status and reason.

        Its requests are still to be sent: gRPC's client reports an error of its own if the call is
        refused while it sends a request.
        """
        return await refusal(self.ask(kind, requests=never()))

    async def ask(self, kind, name=None, requests=None):
        """Make a call of a kind, and return the responses, each with its request."""
        method = getattr(self._channel, kind)(SHOP + (name or kind))
        takes, answers = kind.split("_")
        several = kind == "unary_stream"
        request = b"2" if several else b"1"
        if takes == "stream":
            request = each([b"1", b"2"]) if requests is None else requests
        call = method(request, metadata=self.metadata)
        if answers == "unary":
            return (await call).split(b",")
        return [answer async for answer in call]

    def stream(self):
        """Start a call whose requests and responses are written and read one by one."""
        return self._channel.stream_stream(SHOP + "stream_stream")(metadata=self.metadata)
