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
from grpc.aio import _server as aio_server

SUPPORTED_GRPCIO = "1.85."
"""How the versions of grpcio begin into which this reaches."""

PRIORITY_ACCEPTORS = 4
"""How many calls of a favoured method gRPC hands over before the loop comes back for more. Of
others it hands over one: calls that cost much would push the favoured ones aside."""

DRAIN_ACCEPTORS = 1000
"""How many more it hands over of a busy method when the server stops: it cancels the others."""

DRAIN_CHECK_SECONDS = 0.01
"""Seconds after which a server that stops looks which methods are busy: some may wait for it."""

ChannelOptions = Sequence[tuple[str, Any]]


def new_server(options: ChannelOptions, priority_paths: Collection[str] = ()) -> grpc.aio.Server:
    """Make a server without methods and ports; it takes more calls of favoured paths at once."""
    if not grpc.__version__.startswith(SUPPORTED_GRPCIO):
        return grpc.aio.server(options=options)
    server: Any = _Server(options, priority_paths)
    return server  # type: ignore[no-any-return]


class _Server(aio_server.Server):
    """The server of grpcio with another core."""

    def __init__(self, options: ChannelOptions, priority_paths: Collection[str]) -> None:
        self._loop = cygrpc.get_working_loop()
        arguments = aio_server._augment_channel_arguments(options, None)  # noqa: SLF001
        self._server = _AcceptingCore(self._loop, None, (), None, arguments, None)
        self._server.priority_paths.update(path.encode() for path in priority_paths)


class _AcceptingCore(cygrpc.AioServer):  # type: ignore[misc]
    """Takes calls; what becomes of them, and how the server ends, is grpcio's."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *rest: object) -> None:
        super().__init__(loop, *rest)
        self._event_loop = loop
        self.priority_paths: set[bytes] = set()
        self._methods: dict[str, Any] = {}
        self._resolver = cygrpc._MethodResolver([], self._methods)  # noqa: SLF001
        self._acceptors: set[asyncio.Task[None]] = set()
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
        self._start_acceptors(path, PRIORITY_ACCEPTORS if path in self.priority_paths else 1)
        return (
            self._event_loop.create_future()
            if path
            else self._event_loop.create_task(self._wait_for_acceptors())
        )

    async def shutdown(self, grace: float | None) -> None:
        """Take what has come, as gRPC would cancel it; then end as grpcio does.

        What comes until clients have heard of the end is cancelled still.
        """
        if grace and self.is_running():
            await asyncio.sleep(DRAIN_CHECK_SECONDS)
            for path in [path for path, calls in self._calls.items() if path and calls]:
                self._start_acceptors(path, DRAIN_ACCEPTORS)
            await asyncio.sleep(0)
        await super().shutdown(grace)

    async def _wait_for_acceptors(self) -> NoReturn:
        while self._acceptors:
            ended, _ = await asyncio.wait(self._acceptors, return_when=asyncio.FIRST_EXCEPTION)
            self._acceptors -= ended
            for acceptor in ended:
                acceptor.result()
        raise cygrpc._RequestCallError  # noqa: SLF001 - what grpcio expects at its end

    def _start_acceptors(self, path: bytes | None, count: int) -> None:
        self._acceptors.update(
            self._event_loop.create_task(self._accept(path)) for _ in range(count)
        )

    async def _accept(self, path: bytes | None) -> None:
        loop, name, resolver = self._event_loop, path.decode() if path else "", self._resolver
        calls = self._calls.setdefault(path, set())
        while self.is_running():
            try:
                call = await (self._request_registered_call(path) if path else self._request_call())
            except cygrpc._RequestCallError:  # noqa: SLF001
                continue
            handling = cygrpc._handle_rpc(name, resolver, (), call, loop, False)  # noqa: FBT003, SLF001
            task = loop.create_task(cygrpc._schedule_rpc_coro(handling, call, loop, name))  # noqa: SLF001
            calls.add(task)  # as loops keep tasks by weak references only
            task.add_done_callback(calls.discard)
