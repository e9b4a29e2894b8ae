"""Clients that watch sessions all the while, and write down what they are told."""

import asyncio
import time
from typing import Any

import grpc
from grpc import StatusCode

from tamatar.auth.v1 import session_service_pb2 as pb
from tests.chaos.history import History, Watch
from tests.chaos.recording_client import Server
from tests.chaos.shared_state import World

PAUSE = 0.1
"""Seconds from the end of a stream to the next attempt."""

LATEST = 10.0
"""Seconds after which a watch that has not told of an end will not do so."""

ENDS = {StatusCode.UNAVAILABLE, StatusCode.CANCELLED}
"""How a stream may end."""


async def watch(world: World, server: Server) -> None:
    """Watch, and watch anew when the stream has ended, until the world is over."""
    while not world.is_over:
        call = server.sessions.WatchSessions(pb.WatchSessionsRequest())
        try:
            await _follow(world, call)
        except grpc.aio.AioRpcError as error:
            if error.code() not in ENDS:
                world.history.said.append(f"a watch ended with {error.code().name}")
            await asyncio.sleep(PAUSE)
        finally:
            call.cancel()


async def _follow(world: World, call: Any) -> None:
    assert not (await call.read()).ends
    watch = Watch(time.monotonic())
    world.history.watches.append(watch)
    try:
        await _listen(call, watch)
    finally:
        watch.is_over = True


async def hear_last(history: History, session: str) -> None:
    """Wait until the watches that are left have told of the last end of a run."""
    until = time.monotonic() + LATEST
    while left := [w for w in history.watches if not w.is_over and session not in w.told]:
        if time.monotonic() > until:
            history.said.append(f"{len(left)} watches were silent in the end")
            return
        await asyncio.sleep(PAUSE)


async def _listen(call: Any, watch: Watch) -> None:
    while (message := await call.read()) is not grpc.aio.EOF:
        watch.told |= {end.session_id for end in message.ends if end.session_id}
