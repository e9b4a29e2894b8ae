"""Those who watch sessions, in tests."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import grpc

from tamatar.auth.v1 import session_service_pb2 as pb
from tests.support.calls import Refusal, read_refusal
from tests.support.waiting import eventually

PATIENCE = 20.0
"""Seconds after which what has not come will not come."""


class End(NamedTuple):
    """An end that was told."""

    user_id: str
    session_id: str


class Watch:
    """A stream of ends whose first message was read."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.told: list[End] = []

    async def read(self) -> list[End]:
        """Return the ends of the next message; none are a sign of life."""
        async with asyncio.timeout(PATIENCE):
            message = await self.call.read()
        assert message is not grpc.aio.EOF
        ends = [End(end.user_id, end.session_id) for end in message.ends]
        self.told += ends
        return ends

    async def heard(self, *ends: End) -> None:
        """Wait until these ends were told."""
        async with asyncio.timeout(PATIENCE):
            while not set(ends) <= set(self.told):
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
    """Watch sessions for as long as the block."""
    watch = await eventually(lambda: _begun(sessions, **given))
    try:
        yield watch
    finally:
        watch.call.cancel()


async def _begun(sessions: Any, **given: Any) -> Watch | None:
    """Begin to watch; give None where the server is not able to hear of ends yet."""
    watch = Watch(sessions.WatchSessions(pb.WatchSessionsRequest(), **given))
    try:
        assert await watch.read() == []
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return None
    return watch
