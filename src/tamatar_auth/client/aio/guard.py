"""The guard of an asyncio server: it rejects calls without a valid session."""

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any, Unpack

import grpc

from tamatar.auth.v1.session_service_pb2 import ValidateSessionResponse
from tamatar_auth.client import guard as blocking_guard
from tamatar_auth.client.aio.connect import AuthClient
from tamatar_auth.client.aio.invalidation import SessionWatcher
from tamatar_auth.client.current_session import CurrentSession, as_current_session, bind_session
from tamatar_auth.client.errors import AuthError
from tamatar_auth.client.guard_rules import (
    CallRejected,
    GuardConfig,
    GuardOptions,
    as_rejection,
    checked_response,
    find_token,
)
from tamatar_auth.client.method_rules import MethodRule, SessionRequirement
from tamatar_auth.client.step_up import StepUp, validation_request

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

    async def session(self, token: str, step_up: StepUp | None = None) -> CurrentSession:
        """Return the session of a token.

        Raises `CallRejected` if the session is not valid, if it does not reach what `step_up` asks
        for, or if the service does not answer.
        """
        if self._cache is None or self._watcher is None:
            return as_current_session(await self._validate(token, step_up))
        self._watcher.begin()
        response = self._cache.find(token, step_up)
        if response is None:
            ticket = self._cache.begin()
            try:
                response = await self._validate(token, step_up)
            except CallRejected as rejection:
                if rejection.is_end:
                    self._cache.forget(token)
                raise
            self._cache.store(ticket, token, response)
        return as_current_session(response)

    async def close(self) -> None:
        """Stop the cache. Calls are still guarded."""
        if self._watcher is not None:
            await self._watcher.close()

    async def _validate(self, token: str, step_up: StepUp | None) -> ValidateSessionResponse:
        request = validation_request(token, step_up)
        try:
            response = await self._auth.sessions.ValidateSession(request)
        except AuthError as error:
            raise CallRejected.from_error(error) from None
        return checked_response(response, step_up)

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Return the handler of a method with a check before it."""
        handler = await continuation(handler_call_details)
        rule = self._rules.rule(handler_call_details.method)
        if handler is None or rule.requirement is SessionRequirement.NONE:
            return handler
        behaviour = blocking_guard.behaviour_of(handler)
        if inspect.isasyncgenfunction(behaviour):
            behaviour = _as_writer(behaviour)
        if inspect.iscoroutinefunction(behaviour):
            return blocking_guard.with_behaviour(
                handler, self._guard_behaviour(handler, behaviour, rule)
            )
        return blocking_guard.guard_handler(
            handler, self._thread_admission(asyncio.get_running_loop(), rule)
        )

    def _guard_behaviour(self, handler: Any, behaviour: Any, rule: MethodRule) -> Any:
        is_unary = not (handler.request_streaming or handler.response_streaming)

        async def call(request: Any, context: Any) -> Any:
            session, token = await self._admit(context, rule)
            bind_session(session)  # gRPC runs each call in a task of its own
            if is_unary or token is None:
                return await behaviour(request, context)
            async with self._rechecked(context, token, rule.step_up):
                return await behaviour(request, context)

        return call

    async def _admit(
        self, context: Any, rule: MethodRule
    ) -> tuple[CurrentSession | None, str | None]:
        """Return the session and the token of a call, or abort it."""
        try:
            token = find_token(context.invocation_metadata(), self._key, rule.requirement)
            return (await self.session(token, rule.step_up) if token else None), token
        except Exception as error:  # noqa: BLE001 - gRPC would send its text
            await as_rejection(error).abort_async(context)

    @contextlib.asynccontextmanager
    async def _rechecked(
        self, context: Any, token: str, step_up: StepUp | None
    ) -> AsyncIterator[None]:
        """Check a session during the block, and abort the call when it is no longer valid."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - gRPC runs each call in a task
        rejections: list[CallRejected] = []
        needed = step_up and step_up.while_running
        recheck_task = asyncio.create_task(self._recheck_loop(token, needed, task, rejections))
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
        self,
        token: str,
        step_up: StepUp | None,
        task: "asyncio.Task[Any]",
        rejections: list[CallRejected],
    ) -> None:
        while not rejections:
            await asyncio.sleep(self.recheck)
            try:
                await self.session(token, step_up)
            except Exception as error:  # noqa: BLE001 - nothing awaits this task
                rejections.append(as_rejection(error))
        while True:  # a handler may swallow a cancellation
            task.cancel()
            await asyncio.sleep(CANCEL_INTERVAL)

    def _thread_admission(
        self, loop: asyncio.AbstractEventLoop, rule: MethodRule
    ) -> blocking_guard.AdmitCall:
        def get_session(token: str, step_up: StepUp | None) -> CurrentSession:
            response = self._cache.find(token, step_up) if self._cache is not None else None
            if response is not None:
                return as_current_session(response)
            return asyncio.run_coroutine_threadsafe(self.session(token, step_up), loop).result()

        return blocking_guard.admission(get_session, self._key, rule, self.recheck)


def _as_writer(behaviour: Callable[..., Any]) -> Callable[..., Any]:
    """Return a behaviour that writes the responses which the given one yields.

    A cancellation is then raised in the handler's own code, not in gRPC's.
    """

    async def write(request: Any, context: Any) -> None:
        async with contextlib.aclosing(behaviour(request, context)) as responses:
            async for response in responses:
                await context.write(response)

    return write
