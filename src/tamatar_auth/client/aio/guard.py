"""Keeps calls without a good session from the methods of a server on asyncio."""

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any, Unpack

import grpc

from tamatar.auth.v1.session_service_pb2 import ValidateSessionRequest, ValidateSessionResponse
from tamatar_auth.client import guard as blocking
from tamatar_auth.client.aio.connect import AuthClient
from tamatar_auth.client.aio.invalidation import Watch
from tamatar_auth.client.current_session import CurrentSession, current, enter
from tamatar_auth.client.guard_rules import Given, GuardOptions, Need, Refused, find_token

INSISTENCE = 5.0
"""Seconds after which a handler that was told to end, and goes on, is told again."""


class SessionGuard(grpc.aio.ServerInterceptor):
    """Lets calls in that bring the token of a good session, as the one for blocking servers does.

    A stream is checked again every `recheck` seconds, and ended if its session is not good any
    more. Handlers that are no coroutines run on threads, and are guarded too.

    >>> guard = SessionGuard(connect("auth.example.com:50051", token=token))
    >>> server = grpc.aio.server(interceptors=[guard])
    """

    def __init__(self, auth: AuthClient, **options: Unpack[GuardOptions]) -> None:
        """Guard by a client of the service; `GuardOptions` explains the options."""
        given = Given(**options)
        self._auth = auth
        self._rules = given.rules
        self._key = given.metadata_key
        self.recheck = given.recheck
        """Seconds after which what goes on is checked again."""
        self._cache = given.cache
        self._following = Watch(auth, self._cache) if self._cache is not None else None

    async def session(self, token: str) -> CurrentSession:
        """Return the session of a token, or raise `Refused`."""
        if self._cache is None or self._following is None:
            return current(await self._ask(token))
        self._following.begin()
        answer = self._cache.find(token)
        if answer is None:
            ticket = self._cache.begin()
            answer = await self._ask(token)
            self._cache.keep(ticket, token, answer)
        return current(answer)

    async def close(self) -> None:
        """Use no answer again; calls are still guarded."""
        if self._following is not None:
            await self._following.close()

    async def _ask(self, token: str) -> ValidateSessionResponse:
        request = ValidateSessionRequest(session_token=token)
        try:
            return await self._auth.sessions.ValidateSession(request)
        except Exception as error:  # noqa: BLE001 - such as a token that cannot be read
            raise Refused.because(error) from None

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Return the method's handler behind a check."""
        handler = await continuation(handler_call_details)
        need = self._rules.need(handler_call_details.method)
        if handler is None or need is Need.NOTHING:
            return handler
        behaviour = _behaviour(handler)
        if inspect.isasyncgenfunction(behaviour):
            behaviour = _written(behaviour)
        if inspect.iscoroutinefunction(behaviour):
            return _replaced(handler, self._guarded(handler, behaviour, need))
        return blocking.guarded(handler, self._on_a_thread(asyncio.get_running_loop(), need))

    def _guarded(self, handler: Any, behaviour: Any, need: Need) -> Any:
        is_unary = not (handler.request_streaming or handler.response_streaming)

        async def call(request: Any, context: Any) -> Any:
            session, token = await self._enter(context, need)
            enter(session)  # gRPC runs each call in a task of its own
            if is_unary or token is None:
                return await behaviour(request, context)
            async with self._watched(context, token):
                return await behaviour(request, context)

        return call

    async def _enter(self, context: Any, need: Need) -> tuple[CurrentSession | None, str | None]:
        """Return session and token of a call, or end it."""
        try:
            token = find_token(context.invocation_metadata(), self._key)
            if token is None and need is Need.A_SESSION:
                raise Refused.unknown()
            return (await self.session(token) if token else None), token
        except Refused as refused:
            await refused.end_soon(context)

    @contextlib.asynccontextmanager
    async def _watched(self, context: Any, token: str) -> AsyncIterator[None]:
        """Check a session for as long as the block, and end the call when it is not good."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - gRPC runs each call in a task
        refusals: list[Refused] = []
        watching = asyncio.create_task(self._watch(token, task, refusals))
        try:
            yield
        except asyncio.CancelledError:
            if not refusals:  # it was the caller
                raise
        finally:
            watching.cancel()
        if refusals:
            while task.uncancel():
                pass
            await refusals[0].end_soon(context)

    async def _watch(self, token: str, task: "asyncio.Task[Any]", refusals: list[Refused]) -> None:
        while not refusals:
            await asyncio.sleep(self.recheck)
            try:
                await self.session(token)
            except Refused as refused:
                refusals.append(refused)
        while True:  # its handler may take the first for something else
            task.cancel()
            await asyncio.sleep(INSISTENCE)

    def _on_a_thread(self, loop: asyncio.AbstractEventLoop, need: Need) -> blocking.Enter:
        def session_of(token: str) -> CurrentSession:
            answer = self._cache.find(token) if self._cache is not None else None
            if answer is not None:
                return current(answer)
            return asyncio.run_coroutine_threadsafe(self.session(token), loop).result()

        return blocking.entering(session_of, self._key, need, self.recheck)


def _behaviour(handler: Any) -> Callable[..., Any]:
    kind = ("unary", "stream")
    name = f"{kind[handler.request_streaming]}_{kind[handler.response_streaming]}"
    behaviour: Callable[..., Any] = getattr(handler, name)
    return behaviour


def _written(behaviour: Callable[..., Any]) -> Callable[..., Any]:
    """Turn a behaviour that yields its answers into one that writes them.

    Who ends it then ends it in its own code, not in gRPC's.
    """

    async def write(request: Any, context: Any) -> None:
        async with contextlib.aclosing(behaviour(request, context)) as answers:
            async for answer in answers:
                await context.write(answer)

    return write


def _replaced(handler: Any, behaviour: Any) -> Any:
    """Return a handler of the same kind with another behaviour."""
    kind = ("unary", "stream")
    name = f"{kind[handler.request_streaming]}_{kind[handler.response_streaming]}"
    build = getattr(grpc, f"{name}_rpc_method_handler")
    return build(behaviour, handler.request_deserializer, handler.response_serializer)
