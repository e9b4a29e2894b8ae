"""The guard of an ASGI application: it rejects requests without a valid session."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from functools import partial
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

from grpc import StatusCode

from tamatar_auth.client.aio.guard import SessionGuard
from tamatar_auth.client.current_session import CurrentSession, bound_session
from tamatar_auth.client.guard_rules import CallRejected, RecheckTimer
from tamatar_auth.client.step_up import StepUp
from tamatar_auth.client.web_rules import RequestRules, is_preflight, problem

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

SCOPE_KEY = "tamatar_auth.session"
"""The key of the session in the scope. Frameworks use the key `session` for their own."""

CHECK_KEY = "tamatar_auth.check"
"""The key of the function that checks the session for a step-up, or of None without a token."""

Check = Callable[[StepUp | None], Awaitable[CurrentSession]]

UNAUTHENTICATED, TRY_AGAIN_LATER = 4401, 1013
"""The close codes of websockets."""


class SessionMiddleware:
    """Admits requests and websockets with the token of a valid session.

    Other requests get the status 401 with the reason of the service, or 503 if the service does
    not answer. Other websockets are closed with 4401 or 1013 before they are accepted. The token is
    in the header `Authorization` after `Bearer`, or in a cookie if one is named. Preflights of CORS
    need no session if the application answers them with headers of CORS or an error.
    `current_session()` and `scope["tamatar_auth.session"]` return the session.

    An error that does not pass with time, such as a closed client, is raised.

    The session of a websocket is checked again before a message if the last check is as old as
    the guard's `recheck`. An HTTP request is checked once.

    >>> app = SessionMiddleware(app, SessionGuard(auth), open_paths=["/health", "/static/*"])
    """

    def __init__(  # noqa: PLR0913 - options, each named
        self,
        app: Application,
        guard: SessionGuard | Callable[[], SessionGuard],
        *,
        open_paths: Iterable[str] = (),
        optional_paths: Iterable[str] = (),
        step_up: Mapping[str, StepUp] = MappingProxyType({}),
        cookie: str | None = None,
    ) -> None:
        """Wrap an application.

        - `guard`: the guard, or a function that returns it, if it is made in the lifespan.
        - `open_paths`: paths that need no session: `/health`, or all of `/static/*`.
        - `optional_paths`: paths that need no session, but reject an invalid one.
        - `step_up`: paths that need a stronger or more recent authentication, with or without a
          slash at their end: `{"/pay": StepUp(level=AAL2)}`, or all of `/admin/*`.
        - `cookie`: the cookie that may have the token if there is no header. Browsers send cookies
          with forged requests as well, so set `SameSite` and defend against such requests.
        """
        if not isinstance(guard, SessionGuard) and not callable(guard):
            raise TypeError("this middleware needs a guard of tamatar_auth.client.aio")
        self._app, self._guard = app, guard
        self._rules = RequestRules(
            open_paths=open_paths, optional_paths=optional_paths, step_up=step_up, cookie=cookie
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the application, or reject it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        session = token = check = None
        if self._is_preflight(scope):
            send = _PreflightAnswer(scope, receive, send).send
        elif not self._rules.is_open(_route_path(scope)):
            guard = self._guard if isinstance(self._guard, SessionGuard) else self._guard()
            step_up = self._rules.step_up(_route_path(scope))
            try:
                token = self._find_token(scope)
                session = await guard.session(token, step_up) if token else None
            except CallRejected as rejection:
                await _reject(scope, receive, send, rejection)
                return
            check = partial(guard.session, token) if token else None
            if scope["type"] == "websocket" and check:
                websocket = _GuardedWebSocket(check, step_up, guard.recheck, receive, send)
                receive, send = websocket.receive, websocket.send
        with bound_session(session):
            await self._app({**scope, SCOPE_KEY: session, CHECK_KEY: check}, receive, send)

    def _is_preflight(self, scope: Scope) -> bool:
        """Return whether a request is a preflight of a path that requires a session."""
        names = (name.decode("latin-1") for name, _ in scope["headers"])
        return (
            scope["type"] == "http"
            and is_preflight(scope["method"], names)
            and self._rules.requires_session(_route_path(scope))
        )

    def _find_token(self, scope: Scope) -> str | None:
        authorizations, cookies = (
            [value.decode("latin-1") for name, value in scope["headers"] if name == wanted]
            for wanted in (b"authorization", b"cookie")
        )
        return self._rules.find_token(_route_path(scope), authorizations, cookies)


def _route_path(scope: Scope) -> str:
    """Return the path below the prefix where the application is mounted, as its routes see it."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    return path.removeprefix(root) if path.startswith(f"{root}/") else path


class _PreflightAnswer:
    """The answer to a preflight, which is sent if it can be one of CORS.

    A handler may answer OPTIONS like any other method, and the request has no session.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._is_withheld = False

    async def send(self, message: Message) -> None:
        """Send a message of the answer, or reject the request instead."""
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message.get("headers", ())}
            is_error = message["status"] >= HTTPStatus.BAD_REQUEST
            if not is_error and b"access-control-allow-origin" not in names:
                self._is_withheld = True
                rejection = CallRejected.unknown_session()
                await _reject(self._scope, self._receive, self._send, rejection)
        if not self._is_withheld:
            await self._send(message)


class _GuardedWebSocket:
    """A websocket whose session is checked between messages."""

    def __init__(
        self,
        check: Check,
        step_up: StepUp | None,
        recheck: float,
        receive: Receive,
        send: Send,
    ) -> None:
        self._session_check, self._step_up = check, step_up and step_up.while_running
        self._receive, self._send = receive, send
        self._recheck_timer = RecheckTimer(recheck)
        self._closed: Message | None = None

    async def receive(self) -> Message:
        """Return the next message, or the one that the socket was closed."""
        message = await self._receive()
        if message["type"] == "websocket.receive":
            await self._check()
        return self._closed or message

    async def send(self, message: Message) -> None:
        """Send a message, unless the socket was closed."""
        if message["type"] == "websocket.send":
            await self._check()
        if self._closed is None:
            await self._send(message)

    async def _check(self) -> None:
        if self._closed is not None or not self._recheck_timer.is_due():
            return
        try:
            await self._session_check(self._step_up)
        except CallRejected as rejection:
            close = close_message(rejection)
            self._closed = {"type": "websocket.disconnect", "code": close["code"]}
            await self._send(close)


async def _reject(scope: Scope, receive: Receive, send: Send, rejection: CallRejected) -> None:
    if scope["type"] == "websocket":
        await receive()  # websocket.connect
        await send(close_message(rejection))
        return
    status, headers, body = problem(rejection)
    fields = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


def close_message(rejection: CallRejected) -> Message:
    """Return the message that closes the websocket of a rejected session."""
    is_unauthenticated = rejection.code is StatusCode.UNAUTHENTICATED
    code = UNAUTHENTICATED if is_unauthenticated else TRY_AGAIN_LATER
    return {"type": "websocket.close", "code": code, "reason": rejection.reason}
