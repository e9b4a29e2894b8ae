"""A server of grpc.aio with an accept loop for each method.

grpcio's server waits for the next call of each registered method, and starts all these waits
again whenever one call arrives: every call pays for every method. Unregistered methods share one
queue, and a call whose path is not UTF-8 ends the server. Here each method has a task that
accepts its calls, so no call waits behind those of another method. One more task answers unknown
methods with UNIMPLEMENTED, and decodes no path.

This uses internals of grpcio, so it runs only with the release that it was tried with. With any
other release the server is grpcio's own. Decision 13 says when this module can be deleted.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, NoReturn

import grpc
from grpc._cython import cygrpc
from grpc.aio import _server as aio_server

from tamatar_auth.server.connections import Connections
from tamatar_auth.server.grpcio_release import is_tried
from tamatar_auth.server.wake_up_socket import drained_wake_ups

PRIORITY_ACCEPTORS = 4
"""Calls of a priority method that gRPC hands over in one turn of the loop. Other methods have one:
their calls cost more, and would displace those of priority methods."""

BUSY_CALLS = 100
"""Calls of a method in flight, beyond which it gets more acceptors. Otherwise calls would wait
behind a flood for as long as the loop needs to take it, call by call."""

BUSY_ACCEPTORS = 60
"""Further acceptors of a busy method."""

MAX_METADATA = 16 * 1024
"""Bytes of metadata as HTTP/2 counts them: the limit that gRPC enforces after a client has
acknowledged its settings. Only a client that has not can exceed it."""

ENTRY_OVERHEAD = 32
"""Bytes that HTTP/2 counts for each entry besides name and value."""

DRAIN_ACCEPTORS = 1000
"""Further calls of a busy method that are accepted at shutdown; gRPC cancels calls beyond these."""

DRAIN_CHECK_SECONDS = 0.01
"""Seconds between the request to stop and the look for busy methods: some calls arrive late."""

ChannelOptions = Sequence[tuple[str, Any]]


def new_server(
    options: ChannelOptions,
    priority_paths: Collection[str] = (),
    connections: Connections | None = None,
) -> grpc.aio.Server:
    """Return a server without methods and ports, which prefers the calls of priority paths."""
    if not is_tried():
        return grpc.aio.server(options=options)
    with drained_wake_ups():
        server: Any = _Server(options, priority_paths, connections or Connections())
    return server  # type: ignore[no-any-return]


class _Server(aio_server.Server):
    """The server of grpcio with another core."""

    def __init__(
        self, options: ChannelOptions, priority_paths: Collection[str], connections: Connections
    ) -> None:
        self._loop = cygrpc.get_working_loop()
        arguments = aio_server._augment_channel_arguments(options, None)  # noqa: SLF001
        self._server = _AcceptingCore(self._loop, None, (), None, arguments, None)
        self._server.priority_paths.update(path.encode() for path in priority_paths)
        self._server.connections = connections


class _AcceptingCore(cygrpc.AioServer):  # type: ignore[misc]
    """Accepts calls. grpcio handles them, and ends the server."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *rest: object) -> None:
        super().__init__(loop, *rest)
        self._event_loop = loop
        self.priority_paths: set[bytes] = set()
        self.connections = Connections()
        self._methods: dict[str, Any] = {}
        self._resolver = cygrpc._MethodResolver([], self._methods)  # noqa: SLF001
        self._acceptors: set[asyncio.Task[None]] = set()
        self._calls: dict[bytes | None, set[asyncio.Task[None]]] = {}
        self._busy: dict[bytes | None, asyncio.Task[None]] = {}

    def add_registered_method_handlers(self, handlers: Mapping[str, Any]) -> None:
        """Register the handlers of methods by their paths."""
        super().add_registered_method_handlers(handlers)
        self._methods.update(handlers)

    def _make_request_call_future(self, path: bytes | None) -> "asyncio.Future[Any]":
        """Start to accept the calls of a method.

        grpcio calls this for each method and waits for the future, which never has a call: it
        goes on to wait for the end of the server. The last path is None, for unknown methods.
        """
        self._start_acceptors(path, PRIORITY_ACCEPTORS if path in self.priority_paths else 1)
        return (
            self._event_loop.create_future()
            if path
            else self._event_loop.create_task(self._wait_for_acceptors())
        )

    async def shutdown(self, grace: float | None) -> None:
        """Accept the calls that have arrived, because gRPC would cancel them; then shut down.

        gRPC still cancels calls that arrive before their clients notice the shutdown.
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
        raise cygrpc._RequestCallError  # noqa: SLF001 - grpcio expects it at the end

    def _start_acceptors(self, path: bytes | None, count: int) -> None:
        self._acceptors.update(
            self._event_loop.create_task(self._accept(path)) for _ in range(count)
        )

    async def _accept(self, path: bytes | None, *, while_busy: bool = False) -> None:
        loop, name = self._event_loop, path.decode() if path else ""
        handle = self._handling(name)
        calls = self._calls.setdefault(path, set())
        is_busy = True
        while self.is_running() and (is_busy or not while_busy):
            try:
                call = await (self._request_registered_call(path) if path else self._request_call())
            except cygrpc._RequestCallError:  # noqa: SLF001
                continue
            if is_refused := self._is_refused(call):
                del call  # gRPC cancels a call without a reference
            else:
                task = loop.create_task(cygrpc._schedule_rpc_coro(handle(call), call, loop, name))  # noqa: SLF001
                calls.add(task)  # because event loops reference tasks only weakly
                task.add_done_callback(calls.discard)
            is_busy = is_refused or len(calls) > BUSY_CALLS
            if is_busy and path not in self._busy:
                self._busy[path] = loop.create_task(self._accept_more(path))

    async def _accept_more(self, path: bytes | None) -> None:
        """Accept calls with more acceptors, until few calls of the method are in flight."""
        try:
            await asyncio.gather(
                *(self._accept(path, while_busy=True) for _ in range(BUSY_ACCEPTORS))
            )
        finally:
            del self._busy[path]

    def _handling(self, name: str) -> Callable[[Any], Coroutine[Any, Any, None]]:
        """Return grpcio's function for the calls of a method, without its search for a handler."""
        loop, handler = self._event_loop, self._methods.get(name)
        if handler is None:
            return lambda call: cygrpc._handle_rpc(name, self._resolver, (), call, loop, False)  # noqa: FBT003, SLF001
        kinds = ("unary", "stream")
        kind = f"{kinds[handler.request_streaming]}_{kinds[handler.response_streaming]}"
        function = getattr(cygrpc, f"_handle_{kind}_rpc")
        return lambda call: function(handler, call, loop)

    def _is_refused(self, call: Any) -> bool:
        """Return whether a call has ended, or comes from a connection that sent too much."""
        context = cygrpc._ServicerContext(call, None, None, self._event_loop)  # noqa: SLF001
        peer, size = context.peer(), 0
        # gRPC forgets the peer of a call that was cancelled.
        if not peer or peer in self.connections.closing:
            return True
        for name, value in context.invocation_metadata():
            size += ENTRY_OVERHEAD + len(name) + len(value)
            if size > MAX_METADATA:
                self.connections.close(peer)
                return True
        self.connections.accepted.add(peer)
        return False
