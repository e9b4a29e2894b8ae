"""Clients that watch sessions all the time, and record the ends they receive."""

import asyncio
import time
from typing import Any

import grpc
from grpc import StatusCode

from tamatar.auth.v1 import session_service_pb2 as pb
from tests.chaos.history import History, Watch
from tests.chaos.recording_client import Server
from tests.chaos.shared_state import SharedState

PAUSE = 0.1
"""Seconds from the end of a stream to the next attempt."""

LATEST = 10.0
"""Seconds after which a missing end counts as lost."""

ENDS = {StatusCode.UNAVAILABLE, StatusCode.CANCELLED}
"""The proper ends of a stream."""


async def watch(state: SharedState, server: Server) -> None:
    """Watch, and watch again when the stream has ended, until the run is over."""
    while not state.is_over:
        call = server.sessions.WatchSessions(pb.WatchSessionsRequest())
        try:
            await _follow(state, call)
        except grpc.aio.AioRpcError as error:
            if error.code() not in ENDS:
                state.history.said.append(f"a watch ended with {error.code().name}")
            await asyncio.sleep(PAUSE)
        finally:
            call.cancel()


async def _follow(state: SharedState, call: Any) -> None:
    assert not (await call.read()).ends
    watch = Watch(time.monotonic())
    state.history.watches.append(watch)
    try:
        await _listen(call, watch)
    finally:
        watch.ended = time.monotonic()


async def wait_for_last_end(history: History, session: str) -> None:
    """Wait until the remaining watches have received the last end of a run."""
    until = time.monotonic() + LATEST
    while left := [w for w in history.watches if not w.is_over and session not in w.ends]:
        if time.monotonic() > until:
            history.said.append(f"{len(left)} watches were silent in the end")
            return
        await asyncio.sleep(PAUSE)


async def _listen(call: Any, watch: Watch) -> None:
    while (message := await call.read()) is not grpc.aio.EOF:
        watch.ends |= {end.session_id for end in message.ends if end.session_id}
