"""Keeps requests without a good session from an ASGI application."""

import json
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http import HTTPStatus
from typing import Any

from grpc import StatusCode

from tamatar_auth.client.aio.guard import SessionGuard
from tamatar_auth.client.current_session import CurrentSession, entered
from tamatar_auth.client.guard_rules import Pace, Refused, several, token_in

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

SESSION = "tamatar_auth.session"
"""Where the scope has the session; `session` is where frameworks keep sessions of their own."""

UNAUTHENTICATED, TRY_AGAIN_LATER = 4401, 1013
"""The codes with which websockets are closed."""


class SessionMiddleware:
    """Lets requests and websockets in that bring the token of a good session.

    Others are answered 401, or closed with 4401 before they are accepted, with the reason of the
    service; 503 or 1013 where it cannot be asked. The token is in the header `Authorization`,
    after `Bearer`, or in a cookie where one is named. `current_session()` and
    `scope["tamatar_auth.session"]` tell the application whose the session is.

    Messages of a websocket pass for at most the guard's `recheck` seconds without another check;
    an answer over HTTP is not checked again.

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
        """Stand before an application.

        - `open_paths`: what needs no session: `/health`, or all of `/static/*`.
        - `optional_paths`: what can be asked for without a session, but not with a bad one.
        - `cookie`: the cookie that may have the token where there is no header. Browsers send
          cookies by themselves: it wants `SameSite`, and a defence against forged requests.
        """
        self._app = app
        self._guard = guard
        self._open = _Paths(open_paths)
        self._optional = _Paths(optional_paths)
        self._cookie = cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let the application do it."""
        if scope["type"] == "lifespan" or scope["path"] in self._open:
            await self._app(scope, receive, send)
            return
        try:
            token = self._find_token(scope["headers"])
            if token is None and scope["path"] not in self._optional:
                raise Refused.unknown()
            session = await self._guard.session(token) if token else None
        except Refused as refused:
            await _refuse(scope, receive, send, refused)
            return
        if scope["type"] == "websocket" and token:
            checked = _Socket(self._guard, token, receive, send)
            receive, send = checked.receive, checked.send
        await self._enter({**scope, SESSION: session}, session, receive, send)

    async def _enter(
        self, scope: Scope, session: CurrentSession | None, receive: Receive, send: Send
    ) -> None:
        with entered(session):
            await self._app(scope, receive, send)

    def _find_token(self, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        given = [value.decode("latin-1") for name, value in headers if name == b"authorization"]
        if len(given) > 1:
            raise Refused.unknown()
        if given:
            return token_in(given[0], is_bearer=True)
        if self._cookie is None:
            return None
        sent = ";".join(value.decode("latin-1") for name, value in headers if name == b"cookie")
        pairs = [part.strip().partition("=") for part in sent.split(";")]
        values = {value for name, _, value in pairs if name == self._cookie}
        if len(values) > 1:
            raise Refused.unknown()
        return token_in(values.pop(), is_bearer=False) if values else None


class _Paths:
    """Paths, and folders of them that end with `/*`."""

    def __init__(self, paths: Iterable[str]) -> None:
        paths = several(paths)
        self._exact = frozenset(paths)
        self._folders = tuple(path[:-1] for path in paths if path.endswith("/*"))

    def __contains__(self, path: str) -> bool:
        # What comes after us may take /static/../admin for /admin.
        is_plain = not re.search(r"//|\\|/\.{1,2}(/|$)", path)
        return is_plain and (path in self._exact or path.startswith(self._folders or ("\0",)))


class _Socket:
    """A websocket whose session is checked between its messages."""

    def __init__(self, guard: SessionGuard, token: str, receive: Receive, send: Send) -> None:
        self._guard = guard
        self._token = token
        self._receive = receive
        self._send = send
        self._pace = Pace(guard.recheck)
        self._closed: Message | None = None

    async def receive(self) -> Message:
        """Return the next message, or that the socket was closed."""
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
        if self._closed is not None or not self._pace.is_due():
            return
        try:
            await self._guard.session(self._token)
        except Refused as refused:
            code = _close_code(refused)
            self._closed = {"type": "websocket.disconnect", "code": code}
            await self._send(_close(refused))


async def _refuse(scope: Scope, receive: Receive, send: Send, refused: Refused) -> None:
    if scope["type"] == "websocket":
        await receive()  # the wish to connect
        await send(_close(refused))
        return
    unauthenticated = refused.code is StatusCode.UNAUTHENTICATED
    status = HTTPStatus.UNAUTHORIZED if unauthenticated else HTTPStatus.SERVICE_UNAVAILABLE
    problem = {"title": status.phrase, "status": status.value, "detail": refused.message}
    body = json.dumps(problem | ({"reason": refused.reason} if refused.reason else {})).encode()
    hint = (b"www-authenticate", b"Bearer") if unauthenticated else (b"retry-after", b"1")
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        hint,
    ]
    await send({"type": "http.response.start", "status": status.value, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _close(refused: Refused) -> Message:
    return {"type": "websocket.close", "code": _close_code(refused), "reason": refused.reason}


def _close_code(refused: Refused) -> int:
    return UNAUTHENTICATED if refused.code is StatusCode.UNAUTHENTICATED else TRY_AGAIN_LATER
