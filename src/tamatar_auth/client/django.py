"""The guard of a Django site: it rejects requests without a valid session."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponse
from django.utils.decorators import sync_and_async_middleware

from tamatar_auth.client.current_session import bound_session
from tamatar_auth.client.guard import SessionGuard
from tamatar_auth.client.guard_rules import CallRejected
from tamatar_auth.client.web_rules import RequestRules, is_preflight, problem

Middleware = Callable[[Callable[[HttpRequest], Any]], Callable[[HttpRequest], Any]]


def session_middleware(
    guard: SessionGuard,
    *,
    open_paths: Iterable[str] = (),
    optional_paths: Iterable[str] = (),
    cookie: str | None = None,
) -> Middleware:
    """Return a middleware, to be named in the setting `MIDDLEWARE`.

    It is like `SessionMiddleware` of `tamatar_auth.client.asgi`, with a blocking guard: views that
    are coroutines are guarded on threads. Views read `current_session()`, and streamed responses
    and templates `request.tamatar_session`, which may be None.

    >>> guarded = session_middleware(SessionGuard(auth), open_paths=["/health", "/static/*"])
    >>> MIDDLEWARE = [..., "shop.sessions.guarded"]
    """
    if not isinstance(guard, SessionGuard):
        raise TypeError("this middleware needs a guard of tamatar_auth.client")
    rules = RequestRules(open_paths=open_paths, optional_paths=optional_paths, cookie=cookie)

    def admit(request: Any) -> HttpResponse | None:
        """Bind the session of a request to it, or return the response of its rejection."""
        request.tamatar_session = None
        if rules.is_open(request.path_info) or is_preflight(
            request.method, map(str.lower, request.headers)
        ):
            return None
        authorizations, cookies = (
            [request.headers[name]] if name in request.headers else []
            for name in ("Authorization", "Cookie")
        )
        try:
            token = rules.find_token(request.path_info, authorizations, cookies)
            request.tamatar_session = guard.session(token) if token else None
        except CallRejected as rejection:
            status, headers, body = problem(rejection)
            return HttpResponse(body, status=status, headers=headers)
        return None

    def middleware(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
        def respond(request: Any) -> Any:
            if rejection := admit(request):
                return rejection
            with bound_session(request.tamatar_session):
                return get_response(request)

        async def respond_async(request: Any) -> Any:
            if rejection := await asyncio.to_thread(admit, request):
                return rejection
            with bound_session(request.tamatar_session):
                return await get_response(request)

        return respond_async if iscoroutinefunction(get_response) else respond

    capable: Middleware = sync_and_async_middleware(middleware)
    return capable
