"""The guard of a Django site: it rejects requests without a valid session."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, cast

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponse
from django.utils.decorators import sync_and_async_middleware

from tamatar_auth.client.current_session import bind_session, bound_session
from tamatar_auth.client.guard import SessionGuard
from tamatar_auth.client.guard_rules import CallRejected
from tamatar_auth.client.step_up import StepUp
from tamatar_auth.client.web_rules import RequestRules, is_preflight, problem

Middleware = Callable[[Callable[[HttpRequest], Any]], Callable[[HttpRequest], Any]]


def session_middleware(
    guard: SessionGuard,
    *,
    open_paths: Iterable[str] = (),
    optional_paths: Iterable[str] = (),
    step_up: Mapping[str, StepUp] = MappingProxyType({}),
    cookie: str | None = None,
) -> Middleware:
    """Return a middleware, to be named in the setting `MIDDLEWARE`.

    It is like `SessionMiddleware` of `tamatar_auth.client.asgi`, with a blocking guard: views that
    are coroutines are guarded on threads. Views read `current_session()`, and streamed responses
    and templates `request.tamatar_session`, which may be None. Preflights of CORS reach other
    middleware without a session, but no view.

    >>> guarded = session_middleware(SessionGuard(auth), open_paths=["/health", "/static/*"])
    >>> MIDDLEWARE = [..., "shop.sessions.guarded"]
    """
    if not isinstance(guard, SessionGuard):
        raise TypeError("this middleware needs a guard of tamatar_auth.client")
    rules = RequestRules(
        open_paths=open_paths, optional_paths=optional_paths, step_up=step_up, cookie=cookie
    )
    check = _SessionCheck(guard, rules)

    def middleware(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
        def respond(request: Any) -> Any:
            if rejection := check.admit(request):
                return rejection
            with bound_session(request.tamatar_session):
                return get_response(request)

        async def respond_async(request: Any) -> Any:
            if rejection := await asyncio.to_thread(check.admit, request):
                return rejection
            with bound_session(request.tamatar_session):
                return await get_response(request)

        is_async = iscoroutinefunction(get_response)
        capable: Any = respond_async if is_async else respond
        capable.process_view = check.admit_to_view_async if is_async else check.admit_to_view
        return cast("Callable[[HttpRequest], Any]", capable)

    capable: Middleware = sync_and_async_middleware(middleware)
    return capable


class _SessionCheck:
    """Checks the sessions of requests. A method returns the response of a rejection, or None.

    Middleware for CORS answers preflights. Most views answer OPTIONS like any other method, so a
    preflight that comes as far as a view needs a session.
    """

    def __init__(self, guard: SessionGuard, rules: RequestRules) -> None:
        self._guard, self._rules = guard, rules

    def admit(self, request: Any) -> HttpResponse | None:
        """Set the session of a request, unless it is a preflight."""
        request.tamatar_session = None
        return None if _is_preflight(request) else self._set_session(request)

    def admit_to_view(self, request: Any, *_: object) -> HttpResponse | None:
        """Set and bind the session of a preflight."""
        rejection = self._set_session(request) if _is_preflight(request) else None
        bind_session(request.tamatar_session)
        return rejection

    async def admit_to_view_async(self, request: Any, *_: object) -> HttpResponse | None:
        """Set and bind the session of a preflight."""
        if not _is_preflight(request):
            return None
        rejection = await asyncio.to_thread(self._set_session, request)
        bind_session(request.tamatar_session)
        return rejection

    def _set_session(self, request: Any) -> HttpResponse | None:
        path = request.path_info
        if self._rules.is_open(path):
            return None
        authorizations, cookies = (
            [request.headers[name]] if name in request.headers else []
            for name in ("Authorization", "Cookie")
        )
        try:
            token = self._rules.find_token(path, authorizations, cookies)
            request.tamatar_session = (
                self._guard.session(token, self._rules.step_up(path)) if token else None
            )
        except CallRejected as rejection:
            status, headers, body = problem(rejection)
            return HttpResponse(body, status=status, headers=headers)
        return None


def _is_preflight(request: Any) -> bool:
    return is_preflight(request.method, map(str.lower, request.headers))
