"""The guard of an ASGI application: it rejects requests without a valid session."""

import json
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http import HTTPStatus
from typing import Any

from grpc import StatusCode

from tamatar_auth.client.aio.guard import SessionGuard
from tamatar_auth.client.current_session import bound_session
from tamatar_auth.client.guard_rules import CallRejected, RecheckTimer, as_tuple, extract_token

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

SCOPE_KEY = "tamatar_auth.session"
"""The key of the session in the scope. Frameworks use the key `session` for their own."""

UNAUTHENTICATED, TRY_AGAIN_LATER = 4401, 1013
"""The close codes of websockets."""


class SessionMiddleware:
    """Admits requests and websockets with the token of a valid session.

    Other requests get the status 401 with the reason of the service, or 503 if the service does
    not answer. Other websockets are closed with 4401 or 1013 before they are accepted. The token is
    in the header `Authorization` after `Bearer`, or in a cookie if one is named.
    `current_session()` and `scope["tamatar_auth.session"]` return the session.

    The session of a websocket is checked again before a message if the last check is as old as
    the guard's `recheck`. An HTTP request is checked once.

    >>> app = SessionMiddleware(app, SessionGuard(auth), open_paths=["/health", "/static/*"])
    """

    def __init__(
        self,
        app: Application,
        guard: SessionGuard,
        *,
        open_paths: Iterable[str] = (),
        optional_paths: Iterable[str] = (),
        cookie: str | None = None,
    ) -> None:
        """Wrap an application.

        - `open_paths`: paths that need no session: `/health`, or all of `/static/*`.
        - `optional_paths`: paths that need no session, but reject an invalid one.
        - `cookie`: the cookie that may have the token if there is no header. Browsers send cookies
          with forged requests as well, so set `SameSite` and defend against such requests.
        """
        self._app, self._guard, self._cookie = app, guard, cookie
        self._open, self._optional = _PathSet(open_paths), _PathSet(optional_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the application, or reject it."""
        if scope["type"] == "lifespan" or scope["path"] in self._open:
            await self._app(scope, receive, send)
            return
        try:
            token = self._find_token(scope["headers"])
            if token is None and scope["path"] not in self._optional:
                raise CallRejected.unknown_session()
            session = await self._guard.session(token) if token else None
        except CallRejected as rejection:
            await _reject(scope, receive, send, rejection)
            return
        if scope["type"] == "websocket" and token:
            websocket = _GuardedWebSocket(self._guard, token, receive, send)
            receive, send = websocket.receive, websocket.send
        with bound_session(session):
            await self._app({**scope, SCOPE_KEY: session}, receive, send)

    def _find_token(self, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        authorizations = [value for name, value in headers if name == b"authorization"]
        if len(authorizations) > 1:
            raise CallRejected.unknown_session()
        if authorizations:
            return extract_token(authorizations[0].decode("latin-1"), is_bearer=True)
        if self._cookie is None:
            return None
        cookies = ";".join(value.decode("latin-1") for name, value in headers if name == b"cookie")
        pairs = [part.strip().partition("=") for part in cookies.split(";")]
        values = {value for name, _, value in pairs if name == self._cookie}
        if len(values) > 1:
            raise CallRejected.unknown_session()
        return extract_token(values.pop(), is_bearer=False) if values else None


class _PathSet:
    """Paths, and prefixes that end with `/*`."""

    def __init__(self, paths: Iterable[str]) -> None:
        paths = as_tuple(paths)
        self._exact = frozenset(paths)
        self._prefixes = tuple(path[:-1] for path in paths if path.endswith("/*"))

    def __contains__(self, path: str) -> bool:
        # The application may resolve /static/../admin to /admin.
        is_plain = not re.search(r"//|\\|/\.{1,2}(/|$)", path)
        return is_plain and (path in self._exact or path.startswith(self._prefixes or ("\0",)))


class _GuardedWebSocket:
    """A websocket whose session is checked between messages."""

    def __init__(self, guard: SessionGuard, token: str, receive: Receive, send: Send) -> None:
        self._guard, self._token = guard, token
        self._receive, self._send = receive, send
        self._recheck_timer = RecheckTimer(guard.recheck)
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
            await self._guard.session(self._token)
        except CallRejected as rejection:
            close = _close_message(rejection)
            self._closed = {"type": "websocket.disconnect", "code": close["code"]}
            await self._send(close)


async def _reject(scope: Scope, receive: Receive, send: Send, rejection: CallRejected) -> None:
    if scope["type"] == "websocket":
        await receive()  # websocket.connect
        await send(_close_message(rejection))
        return
    is_unauthenticated = rejection.code is StatusCode.UNAUTHENTICATED
    status = HTTPStatus.UNAUTHORIZED if is_unauthenticated else HTTPStatus.SERVICE_UNAVAILABLE
    problem = {"title": status.phrase, "status": status.value, "detail": rejection.message}
    body = json.dumps(problem | ({"reason": rejection.reason} if rejection.reason else {})).encode()
    hint = (b"www-authenticate", b"Bearer") if is_unauthenticated else (b"retry-after", b"1")
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        hint,
    ]
    await send({"type": "http.response.start", "status": status.value, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _close_message(rejection: CallRejected) -> Message:
    is_unauthenticated = rejection.code is StatusCode.UNAUTHENTICATED
    code = UNAUTHENTICATED if is_unauthenticated else TRY_AGAIN_LATER
    return {"type": "websocket.close", "code": code, "reason": rejection.reason}
