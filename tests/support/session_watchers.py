"""Clients of WatchSessions, for tests."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import grpc

from tamatar.auth.v1 import session_service_pb2 as pb
from tests.support.calls import Refusal, read_refusal
from tests.support.waiting import PATIENCE, eventually


class End(NamedTuple):
    """A received end of a session."""

    user_id: str
    session_id: str


class Watch:
    """A stream of ends whose first message was read."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.ends: list[End] = []

    async def read(self) -> list[End]:
        """Return the ends of the next message; a keepalive has none."""
        async with asyncio.timeout(PATIENCE):
            message = await self.call.read()
        assert message is not grpc.aio.EOF
        ends = [End(end.user_id, end.session_id) for end in message.ends]
        self.ends += ends
        return ends

    async def wait_for(self, *ends: End) -> None:
        """Wait until these ends were received."""
        async with asyncio.timeout(PATIENCE):
            while not set(ends) <= set(self.ends):
                await self.read()

    async def refusal(self) -> Refusal:
        """Wait for the end of the stream."""
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    await self.read()
        except grpc.aio.AioRpcError as error:
            return read_refusal(error)


@contextlib.asynccontextmanager
async def watching(sessions: Any, **given: Any) -> AsyncIterator[Watch]:
    """Watch sessions while the block runs."""
    watch = await eventually(lambda: _begun(sessions, **given))
    try:
        yield watch
    finally:
        watch.call.cancel()


async def _begun(sessions: Any, **given: Any) -> Watch | None:
    """Begin to watch; return None if the server has no listener connection yet."""
    watch = Watch(sessions.WatchSessions(pb.WatchSessionsRequest(), **given))
    try:
        assert await watch.read() == []
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return None
    return watch
