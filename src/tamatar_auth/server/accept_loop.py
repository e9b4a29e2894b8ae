"""A server of grpc.aio that takes the calls of each method by themselves.

That of grpcio waits for the next call of each registered method, and for all of them anew
whenever one has come: every call pays for every method. Methods that are not registered wait in
one queue, and a call among these whose path is not UTF-8 ends the server, whoever made it. Here
each method has a task that takes its calls, so none waits behind those of others; one more task
answers what is no method with UNIMPLEMENTED, and reads no path.

This reaches into grpcio, so it is for the release that it was tried with. With any other one the
server is grpcio's own.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NoReturn

import grpc
from grpc._cython import cygrpc
from grpc.aio import _server as grpcio

TRIED = "1.85."
"""How the versions of grpcio begin into which this reaches."""

AT_ONCE = 4
"""How many calls of a favoured method gRPC hands over before the loop comes back for more. Of
others it hands over one: calls that cost much would push the favoured ones aside."""

AT_LAST = 1000
"""How many more it hands over of a busy method when the server stops: it cancels the others."""

LOOK = 0.01
"""Seconds after which a server that stops looks which methods are busy: some may wait for it."""

Options = Sequence[tuple[str, Any]]


def new_server(options: Options, favoured: Collection[str] = ()) -> grpc.aio.Server:
    """Make a server without methods and ports; it takes more calls of favoured paths at once."""
    if not grpc.__version__.startswith(TRIED):
        return grpc.aio.server(options=options)
    server: Any = _Server(options, favoured)
    return server  # type: ignore[no-any-return]


class _Server(grpcio.Server):
    """The server of grpcio with another core."""

    def __init__(self, options: Options, favoured: Collection[str]) -> None:
        self._loop = cygrpc.get_working_loop()
        arguments = grpcio._augment_channel_arguments(options, None)  # noqa: SLF001
        self._server = _Core(self._loop, None, (), None, arguments, None)
        self._server.favoured.update(path.encode() for path in favoured)


class _Core(cygrpc.AioServer):  # type: ignore[misc]
    """Takes calls; what becomes of them, and how the server ends, is grpcio's."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *rest: object) -> None:
        super().__init__(loop, *rest)
        self._on = loop
        self.favoured: set[bytes] = set()
        self._methods: dict[str, Any] = {}
        self._resolver = cygrpc._MethodResolver([], self._methods)  # noqa: SLF001
        self._takers: set[asyncio.Task[None]] = set()
        self._calls: dict[bytes | None, set[asyncio.Task[None]]] = {}

    def add_registered_method_handlers(self, handlers: Mapping[str, Any]) -> None:
        """Answer methods, which are told by their paths."""
        super().add_registered_method_handlers(handlers)
        self._methods.update(handlers)

    def _make_request_call_future(self, path: bytes | None) -> "asyncio.Future[Any]":
        """Begin to take the calls of a method.

        grpcio asks for its next one, and gets none: it goes on to wait for the end. None comes
        last, and stands for what is no method.
        """
        self._begin_to_take(path, AT_ONCE if path in self.favoured else 1)
        return self._on.create_future() if path else self._on.create_task(self._until_the_end())

    async def shutdown(self, grace: float | None) -> None:
        """Take what has come, as gRPC would cancel it; then end as grpcio does.

        What comes until clients have heard of the end is cancelled still.
        """
        if grace and self.is_running():
            await asyncio.sleep(LOOK)
            for path in [path for path, calls in self._calls.items() if path and calls]:
                self._begin_to_take(path, AT_LAST)
            await asyncio.sleep(0)
        await super().shutdown(grace)

    async def _until_the_end(self) -> NoReturn:
        while self._takers:
            ended, _ = await asyncio.wait(self._takers, return_when=asyncio.FIRST_EXCEPTION)
            self._takers -= ended
            for taker in ended:
                taker.result()
        raise cygrpc._RequestCallError  # noqa: SLF001 - what grpcio expects at its end

    def _begin_to_take(self, path: bytes | None, many: int) -> None:
        self._takers.update(self._on.create_task(self._take(path)) for _ in range(many))

    async def _take(self, path: bytes | None) -> None:
        loop, name, resolver = self._on, path.decode() if path else "", self._resolver
        calls = self._calls.setdefault(path, set())
        while self.is_running():
            try:
                call = await (self._request_registered_call(path) if path else self._request_call())
            except cygrpc._RequestCallError:  # noqa: SLF001
                continue
            answered = cygrpc._handle_rpc(name, resolver, (), call, loop, False)  # noqa: FBT003, SLF001
            task = loop.create_task(cygrpc._schedule_rpc_coro(answered, call, loop, name))  # noqa: SLF001
            calls.add(task)  # as loops keep tasks by weak references only
            task.add_done_callback(calls.discard)
