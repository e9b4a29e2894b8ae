"""The guard of an asyncio server: it rejects calls without a valid session."""

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any, Unpack

import grpc

from tamatar.auth.v1.session_service_pb2 import ValidateSessionRequest, ValidateSessionResponse
from tamatar_auth.client import guard as blocking_guard
from tamatar_auth.client.aio.connect import AuthClient
from tamatar_auth.client.aio.invalidation import SessionWatcher
from tamatar_auth.client.current_session import CurrentSession, as_current_session, bind_session
from tamatar_auth.client.errors import AuthError
from tamatar_auth.client.guard_rules import (
    CallRejected,
    GuardConfig,
    GuardOptions,
    SessionRequirement,
    as_rejection,
    find_token,
)

CANCEL_INTERVAL = 5.0
"""Seconds after which a handler that ignored its cancellation is cancelled again."""


class SessionGuard(grpc.aio.ServerInterceptor):
    """Admits calls with the token of a valid session, like the guard of a blocking server.

    The session of a stream is checked every `recheck` seconds, and the stream ends when its
    session is no longer valid. Handlers that run on threads are guarded as well.

    >>> guard = SessionGuard(connect("auth.example.com:50051", token=token))
    >>> server = grpc.aio.server(interceptors=[guard])
    """

    def __init__(self, auth: AuthClient, **options: Unpack[GuardOptions]) -> None:
        """Guard with a client of the service. `GuardOptions` explains the options."""
        if not isinstance(auth, AuthClient):
            raise TypeError("this guard needs a client of tamatar_auth.client.aio.connect")
        config = GuardConfig(**options)
        self._auth = auth
        self._rules, self._key = config.rules, config.metadata_key
        self.recheck = config.recheck
        """Seconds after which the session of a running stream is checked again."""
        self._cache = config.cache
        self._watcher = SessionWatcher(auth, self._cache) if self._cache is not None else None

    async def session(self, token: str) -> CurrentSession:
        """Return the session of a token.

        Raises `CallRejected` if the session is not valid, or if the service does not answer.
        """
        if self._cache is None or self._watcher is None:
            return as_current_session(await self._validate(token))
        self._watcher.begin()
        response = self._cache.find(token)
        if response is None:
            ticket = self._cache.begin()
            response = await self._validate(token)
            self._cache.store(ticket, token, response)
        return as_current_session(response)

    async def close(self) -> None:
        """Stop the cache. Calls are still guarded."""
        if self._watcher is not None:
            await self._watcher.close()

    async def _validate(self, token: str) -> ValidateSessionResponse:
        request = ValidateSessionRequest(session_token=token)
        try:
            return await self._auth.sessions.ValidateSession(request)
        except AuthError as error:
            raise CallRejected.from_error(error) from None

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Return the handler of a method with a check before it."""
        handler = await continuation(handler_call_details)
        requirement = self._rules.requirement(handler_call_details.method)
        if handler is None or requirement is SessionRequirement.NONE:
            return handler
        behaviour = blocking_guard.behaviour_of(handler)
        if inspect.isasyncgenfunction(behaviour):
            behaviour = _as_writer(behaviour)
        if inspect.iscoroutinefunction(behaviour):
            return blocking_guard.with_behaviour(
                handler, self._guard_behaviour(handler, behaviour, requirement)
            )
        return blocking_guard.guard_handler(
            handler, self._thread_admission(asyncio.get_running_loop(), requirement)
        )

    def _guard_behaviour(
        self, handler: Any, behaviour: Any, requirement: SessionRequirement
    ) -> Any:
        is_unary = not (handler.request_streaming or handler.response_streaming)

        async def call(request: Any, context: Any) -> Any:
            session, token = await self._admit(context, requirement)
            bind_session(session)  # gRPC runs each call in a task of its own
            if is_unary or token is None:
                return await behaviour(request, context)
            async with self._rechecked(context, token):
                return await behaviour(request, context)

        return call

    async def _admit(
        self, context: Any, requirement: SessionRequirement
    ) -> tuple[CurrentSession | None, str | None]:
        """Return the session and the token of a call, or abort it."""
        try:
            token = find_token(context.invocation_metadata(), self._key, requirement)
            return (await self.session(token) if token else None), token
        except Exception as error:  # noqa: BLE001 - gRPC would send its text
            await as_rejection(error).abort_async(context)

    @contextlib.asynccontextmanager
    async def _rechecked(self, context: Any, token: str) -> AsyncIterator[None]:
        """Check a session during the block, and abort the call when it is no longer valid."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - gRPC runs each call in a task
        rejections: list[CallRejected] = []
        recheck_task = asyncio.create_task(self._recheck_loop(token, task, rejections))
        try:
            yield
        except asyncio.CancelledError:
            if not rejections:  # the caller cancelled the call
                raise
        finally:
            recheck_task.cancel()
        if rejections:
            while task.uncancel():
                pass
            await rejections[0].abort_async(context)

    async def _recheck_loop(
        self, token: str, task: "asyncio.Task[Any]", rejections: list[CallRejected]
    ) -> None:
        while not rejections:
            await asyncio.sleep(self.recheck)
            try:
                await self.session(token)
            except Exception as error:  # noqa: BLE001 - nothing awaits this task
                rejections.append(as_rejection(error))
        while True:  # a handler may swallow a cancellation
            task.cancel()
            await asyncio.sleep(CANCEL_INTERVAL)

    def _thread_admission(
        self, loop: asyncio.AbstractEventLoop, requirement: SessionRequirement
    ) -> blocking_guard.AdmitCall:
        def get_session(token: str) -> CurrentSession:
            response = self._cache.find(token) if self._cache is not None else None
            if response is not None:
                return as_current_session(response)
            return asyncio.run_coroutine_threadsafe(self.session(token), loop).result()

        return blocking_guard.admission(get_session, self._key, requirement, self.recheck)


def _as_writer(behaviour: Callable[..., Any]) -> Callable[..., Any]:
    """Return a behaviour that writes the responses which the given one yields.

    A cancellation is then raised in the handler's own code, not in gRPC's.
    """

    async def write(request: Any, context: Any) -> None:
        async with contextlib.aclosing(behaviour(request, context)) as responses:
            async for response in responses:
                await context.write(response)

    return write
