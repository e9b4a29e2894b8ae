"""Keeps a cache up to date with the sessions that end, in a task."""

import asyncio
from contextvars import Context
from typing import Any

import grpc

from tamatar.auth.v1.session_service_pb2 import WatchSessionsRequest
from tamatar_auth.client.aio.connect import AuthClient
from tamatar_auth.client.backoff import Backoff
from tamatar_auth.client.cache import MAX_STREAM_SILENCE, SessionCache
from tamatar_auth.client.invalidation import restart_delay


class SessionWatcher:
    """Watches from its first use until it is closed or the event loop ends.

    Its first use on another loop then starts it again.
    """

    def __init__(self, auth: AuthClient, cache: SessionCache) -> None:
        self._auth = auth
        self._cache = cache
        self._task: asyncio.Task[None] | None = None
        self._closed_loop: asyncio.AbstractEventLoop | None = None

    def begin(self) -> None:
        """Start to watch, unless it watches already."""
        if self._task is not None and not self._task.done():
            if not self._task.get_loop().is_closed():
                return
            self._cache.stream_broken()  # the loop ended without its task
        loop = asyncio.get_running_loop()
        if loop is not self._closed_loop:
            # The task outlives the call that starts it, so it does not share its context.
            self._task = loop.create_task(self._run(), name="watch sessions", context=Context())

    async def close(self) -> None:
        """Stop watching on this event loop."""
        self._closed_loop = asyncio.get_running_loop()
        if self._task is not None and self._task.get_loop() is self._closed_loop:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        backoff = Backoff()
        while True:
            error = None
            try:
                await self._follow_stream(backoff)
            except grpc.aio.UsageError:  # the client was closed
                self._closed_loop = asyncio.get_running_loop()
                return
            except Exception as raised:  # noqa: BLE001 - such as a token that cannot be read
                error = raised
            finally:
                self._cache.stream_broken()
            await asyncio.sleep(restart_delay(backoff, error))

    async def _follow_stream(self, backoff: Backoff) -> None:
        """Apply the messages of one stream to the cache until it ends or falls silent."""
        call: Any = self._auth.sessions.WatchSessions(WatchSessionsRequest())
        try:
            is_open = False
            while True:
                async with asyncio.timeout(MAX_STREAM_SILENCE):
                    message = await call.read()
                if message is grpc.aio.EOF:
                    return
                if not is_open:
                    self._cache.stream_opened()
                    backoff.reset()
                    is_open = True
                elif not self._cache.apply_ends(message.ends):
                    return
        finally:
            call.cancel()
