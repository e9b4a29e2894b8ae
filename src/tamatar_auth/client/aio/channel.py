"""A channel for asyncio. It sets deadlines and raises `AuthError`."""

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any, Self

import grpc

from tamatar_auth.client.call_defaults import defaults_for
from tamatar_auth.client.channel import CallMetadata, auth_errors


class AuthChannel(grpc.aio.Channel):
    """A channel that opens with the first call.

    gRPC binds a channel to an event loop, so each loop gets one of its own.
    """

    def __init__(
        self, open_channel: Callable[[], grpc.aio.Channel], metadata: CallMetadata
    ) -> None:
        self._open_channel = open_channel
        self._metadata = metadata
        self._channels: dict[asyncio.AbstractEventLoop, grpc.aio.Channel | None] = {}
        """The channel of each event loop, or None after it was closed."""

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return a callable for a method."""
        return self._wrapped(method, lambda channel: channel.unary_unary(method, *args, **kwargs))

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return a callable for a method that returns a stream."""
        return self._wrapped(method, lambda channel: channel.unary_stream(method, *args, **kwargs))

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return a callable for a method that takes a stream."""
        return self._wrapped(method, lambda channel: channel.stream_unary(method, *args, **kwargs))

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return a callable for a method that takes and returns a stream."""
        return self._wrapped(method, lambda channel: channel.stream_stream(method, *args, **kwargs))

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: FBT001, FBT002 - gRPC's
        """Return the state of the connection."""
        return self._opened().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Return when the state is no longer the given one."""
        await self._opened().wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Return when the channel is connected."""
        await self._opened().channel_ready()

    async def close(self, grace: float | None = None) -> None:
        """Close the connections of this loop, and cancel calls longer than `grace` seconds."""
        loop = asyncio.get_running_loop()
        channel, self._channels[loop] = self._channels.get(loop), None
        if channel is not None:
            await channel.close(grace)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _opened(self) -> grpc.aio.Channel:
        """Return the channel of the running event loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._channels:
            # The loops of other threads change the dictionary at the same time.
            for ended in [each for each in list(self._channels) if each.is_closed()]:
                self._channels.pop(ended, None)
            self._channels[loop] = self._open_channel()
        channel = self._channels[loop]
        if channel is None:
            raise grpc.aio.UsageError(
                "the client is closed: close it after the last call, or connect again"
            )
        return channel

    def _wrapped(
        self, method: str, bind: Callable[[grpc.aio.Channel], Callable[..., Any]]
    ) -> Callable[..., Any]:
        defaults = defaults_for(method)
        bound: tuple[grpc.aio.Channel, Callable[..., Any]] | None = None

        def call(request: Any = None, timeout: float | None = None, **kwargs: Any) -> Any:
            nonlocal bound
            channel, known = self._opened(), bound
            if known is None or known[0] is not channel:
                known = bound = channel, bind(channel)  # another thread may replace `bound`
            kwargs["timeout"] = defaults.timeout if timeout is None else timeout
            kwargs["metadata"] = (*self._metadata(), *(kwargs.get("metadata") or ()))
            return _Call(known[1](defaults.prepare(request), **kwargs))

        return call


class _Call:
    """A call in flight. Await its response, or iterate over its stream."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __await__(self) -> Generator[Any, Any, Any]:
        with auth_errors():
            return (yield from self._call.__await__())

    async def __aiter__(self) -> AsyncIterator[Any]:
        with auth_errors():
            async for response in self._call:
                yield response

    async def read(self) -> Any:
        """Return the next response, or `grpc.aio.EOF`."""
        with auth_errors():
            return await self._call.read()

    async def write(self, request: Any) -> None:
        """Send the next request."""
        with auth_errors():
            await self._call.write(request)
