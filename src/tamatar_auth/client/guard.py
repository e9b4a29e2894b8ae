"""Keeps calls without a good session from the methods of a blocking server."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Unpack

import grpc

from tamatar.auth.v1.session_service_pb2 import ValidateSessionRequest, ValidateSessionResponse
from tamatar_auth.client.connect import AuthClient
from tamatar_auth.client.current_session import CurrentSession, current, entered
from tamatar_auth.client.guard_rules import Given, GuardOptions, Need, Pace, Refused, find_token
from tamatar_auth.client.invalidation import Watch

Check = Callable[[], None]


class SessionGuard(grpc.ServerInterceptor):
    """Lets calls in that bring the token of a good session, and tells handlers whose it is.

    Others end UNAUTHENTICATED with the reason of the service, or UNAVAILABLE where it cannot be
    asked. Messages of a stream pass for at most `recheck` seconds without another check.

    >>> guard = SessionGuard(connect("auth.example.com:50051", token=token))
    >>> server = grpc.server(ThreadPoolExecutor(), interceptors=[guard])
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

    def session(self, token: str) -> CurrentSession:
        """Return the session of a token, or raise `Refused`."""
        if self._cache is None or self._following is None:
            return current(self._ask(token))
        self._following.begin()
        answer = self._cache.find(token)
        if answer is None:
            ticket = self._cache.begin()
            answer = self._ask(token)
            self._cache.keep(ticket, token, answer)
        return current(answer)

    def close(self) -> None:
        """Use no answer again; calls are still guarded."""
        if self._following is not None:
            self._following.close()

    def _ask(self, token: str) -> ValidateSessionResponse:
        try:
            return self._auth.sessions.ValidateSession(ValidateSessionRequest(session_token=token))
        except Exception as error:  # noqa: BLE001 - such as a token that cannot be read
            raise Refused.because(error) from None

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Return the method's handler behind a check."""
        handler = continuation(handler_call_details)
        need = self._rules.need(handler_call_details.method)
        if handler is None or need is Need.NOTHING:
            return handler
        # The check is made where the handler runs: here it would hold up the calls of others.
        return guarded(handler, entering(self.session, self._key, need, self.recheck))


Enter = Callable[[Any], tuple[CurrentSession | None, Check]]
"""Returns the session of a call and what checks it again, or ends the call."""


def entering(
    session_of: Callable[[str], CurrentSession], key: str, need: Need, recheck: float
) -> Enter:
    """Return what lets calls in whose metadata has the token of a good session under a key."""

    def enter(context: Any) -> tuple[CurrentSession | None, Check]:
        def check(token: str | None) -> CurrentSession | None:
            if token is None and need is Need.A_SESSION:
                raise Refused.unknown()
            return session_of(token) if token else None

        def again() -> None:
            if pace.is_due():
                try:
                    check(token)
                except Refused as refused:
                    refused.end(context)

        pace = Pace(recheck)
        try:
            token = find_token(context.invocation_metadata(), key)
            return check(token), again
        except Refused as refused:
            refused.end(context)

    return enter


def guarded(handler: Any, enter: Enter) -> Any:
    """Return a blocking handler behind a check."""
    streams = handler.request_streaming
    if handler.response_streaming:
        behaviour = handler.stream_stream if streams else handler.unary_stream
        kinds = grpc.unary_stream_rpc_method_handler, grpc.stream_stream_rpc_method_handler
        wrapped: Any = streaming(behaviour, enter, streams=streams)
    else:
        behaviour = handler.stream_unary if streams else handler.unary_unary
        kinds = grpc.unary_unary_rpc_method_handler, grpc.stream_unary_rpc_method_handler
        wrapped = answering_once(behaviour, enter, streams=streams)
    return kinds[streams](wrapped, handler.request_deserializer, handler.response_serializer)


def answering_once(behaviour: Any, enter: Enter, *, streams: bool) -> Any:
    """Check before a behaviour answers."""

    def call(request: Any, context: Any) -> Any:
        session, check = enter(context)
        with entered(session):
            return behaviour(_checked(request, check) if streams else request, context)

    return call


def streaming(behaviour: Any, enter: Enter, *, streams: bool) -> Any:
    """Check before a behaviour answers, and between its answers.

    They are made one by one, each perhaps on another thread, so each is entered anew.
    """

    def call(request: Any, context: Any) -> Iterator[Any]:
        session, check = enter(context)
        with entered(session):
            answers = iter(behaviour(_checked(request, check) if streams else request, context))
        try:
            while True:
                with entered(session):
                    try:
                        answer = next(answers)
                    except StopIteration:
                        return
                check()
                yield answer
        finally:
            with entered(session):
                getattr(answers, "close", lambda: None)()

    return call


def _checked(requests: Iterable[Any], check: Check) -> Iterator[Any]:
    for request in requests:
        check()
        yield request
