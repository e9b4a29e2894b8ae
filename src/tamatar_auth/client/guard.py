"""The guard of a blocking server: it rejects calls without a valid session."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Unpack

import grpc

from tamatar.auth.v1.session_service_pb2 import ValidateSessionResponse
from tamatar_auth.client.connect import AuthClient
from tamatar_auth.client.current_session import CurrentSession, as_current_session, bound_session
from tamatar_auth.client.errors import AuthError
from tamatar_auth.client.guard_rules import (
    CallRejected,
    GuardConfig,
    GuardOptions,
    RecheckTimer,
    as_rejection,
    checked_response,
    find_token,
)
from tamatar_auth.client.invalidation import SessionWatcher
from tamatar_auth.client.method_rules import MethodRule, SessionRequirement
from tamatar_auth.client.step_up import StepUp, validation_request

Recheck = Callable[[], None]

_KINDS = ("unary", "stream")


class SessionGuard(grpc.ServerInterceptor):
    """Admits calls with the token of a valid session. `current_session()` returns the session.

    Other calls fail with UNAUTHENTICATED and the reason of the service, or with UNAVAILABLE if the
    service does not answer. The session of a stream is checked again before a message if the last
    check is `recheck` seconds old.

    >>> guard = SessionGuard(connect("auth.example.com:50051", token=token))
    >>> server = grpc.server(ThreadPoolExecutor(), interceptors=[guard])
    """

    def __init__(self, auth: AuthClient, **options: Unpack[GuardOptions]) -> None:
        """Guard with a client of the service. `GuardOptions` explains the options."""
        if not isinstance(auth, AuthClient):
            raise TypeError("this guard needs a client of tamatar_auth.client.connect")
        config = GuardConfig(**options)
        self._auth = auth
        self._rules, self._key = config.rules, config.metadata_key
        self.recheck = config.recheck
        """Seconds after which the session of a running stream is checked again."""
        self._cache = config.cache
        self._watcher = SessionWatcher(auth, self._cache) if self._cache is not None else None

    def session(self, token: str, step_up: StepUp | None = None) -> CurrentSession:
        """Return the session of a token.

        Raises `CallRejected` if the session is not valid, if it does not reach what `step_up` asks
        for, or if the service does not answer.
        """
        if self._cache is None or self._watcher is None:
            return as_current_session(self._validate(token, step_up))
        self._watcher.begin()
        response = self._cache.find(token, step_up)
        if response is None:
            ticket = self._cache.begin()
            try:
                response = self._validate(token, step_up)
            except CallRejected as rejection:
                if rejection.is_end:
                    self._cache.forget(token)
                raise
            self._cache.store(ticket, token, response)
        return as_current_session(response)

    def close(self) -> None:
        """Stop the cache. Calls are still guarded."""
        if self._watcher is not None:
            self._watcher.close()

    def _validate(self, token: str, step_up: StepUp | None) -> ValidateSessionResponse:
        try:
            response = self._auth.sessions.ValidateSession(validation_request(token, step_up))
        except AuthError as error:
            raise CallRejected.from_error(error) from None
        return checked_response(response, step_up)

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Return the handler of a method with a check before it."""
        handler = continuation(handler_call_details)
        rule = self._rules.rule(handler_call_details.method)
        if handler is None or rule.requirement is SessionRequirement.NONE:
            return handler
        # The handler makes the check, because a check in here would delay other calls.
        return guard_handler(handler, admission(self.session, self._key, rule, self.recheck))


AdmitCall = Callable[[Any], tuple[CurrentSession | None, Recheck]]
"""Returns the session of a call and a function that checks it again, or aborts the call."""


def admission(
    get_session: Callable[[str, StepUp | None], CurrentSession],
    key: str,
    rule: MethodRule,
    recheck: float,
) -> AdmitCall:
    """Return a function that admits a call by the session token in its metadata."""
    needed, while_running = rule.step_up, rule.step_up and rule.step_up.while_running

    def admit(context: Any) -> tuple[CurrentSession | None, Recheck]:
        def recheck_if_due() -> None:
            if token and timer.is_due():
                try:
                    get_session(token, while_running)
                except Exception as error:  # noqa: BLE001 - gRPC would send its text
                    as_rejection(error).abort(context)

        timer = RecheckTimer(recheck)
        try:
            token = find_token(context.invocation_metadata(), key, rule.requirement)
            return (get_session(token, needed) if token else None), recheck_if_due
        except Exception as error:  # noqa: BLE001 - gRPC would send its text
            as_rejection(error).abort(context)

    return admit


def guard_handler(handler: Any, admit: AdmitCall) -> Any:
    """Return a blocking handler with a check before it."""
    behaviour = behaviour_of(handler)

    def start(request: Any, context: Any, check: Recheck) -> Any:
        requests = _recheck_each(request, check) if handler.request_streaming else request
        return behaviour(requests, context)

    def unary(request: Any, context: Any) -> Any:
        session, check = admit(context)
        with bound_session(session):
            return start(request, context, check)

    def stream(request: Any, context: Any) -> Iterator[Any]:
        # gRPC may produce each response on another thread, so the session is bound for each one.
        session, check = admit(context)
        with bound_session(session):
            responses = iter(start(request, context, check))
        try:
            while True:
                with bound_session(session):
                    try:
                        response = next(responses)
                    except StopIteration:
                        return
                check()
                yield response
        finally:
            with bound_session(session):
                getattr(responses, "close", lambda: None)()

    return with_behaviour(handler, stream if handler.response_streaming else unary)


def _recheck_each(requests: Iterable[Any], check: Recheck) -> Iterator[Any]:
    for request in requests:
        check()
        yield request


def behaviour_of(handler: Any) -> Callable[..., Any]:
    """Return the function of a handler that answers calls."""
    behaviour: Callable[..., Any] = getattr(handler, _arity(handler))
    return behaviour


def with_behaviour(handler: Any, behaviour: Callable[..., Any]) -> Any:
    """Return a handler of the same method with another behaviour."""
    build = getattr(grpc, f"{_arity(handler)}_rpc_method_handler")
    return build(behaviour, handler.request_deserializer, handler.response_serializer)


def _arity(handler: Any) -> str:
    return f"{_KINDS[handler.request_streaming]}_{_KINDS[handler.response_streaming]}"
