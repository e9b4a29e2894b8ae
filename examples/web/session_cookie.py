"""The cookie that holds the token of a session: set, replaced, deleted and protected."""
# ruff: noqa: INP001 - a module of an example

from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from urllib.parse import urlencode

from pages import page
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from tamatar.auth.v1.session_service_pb2 import (
    CompleteSignInResponse,
    CompleteStepUpResponse,
    CreateSessionResponse,
    RefreshSessionRequest,
    RefreshSessionResponse,
)
from tamatar_auth.client import AuthError, find_current_session
from tamatar_auth.client.aio import AuthClient

Next = Callable[[Request], Awaitable[Response]]
Answer = (
    CreateSessionResponse | CompleteSignInResponse | CompleteStepUpResponse | RefreshSessionResponse
)

TOKEN_AGE = timedelta(hours=1)
"""How old the token of a session becomes before it is replaced."""

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Referrer-Policy": "strict-origin",  # the addresses of some pages have one-time tokens
}

SAFE = {"GET", "HEAD"}
"""The methods that change nothing."""


class SessionCookie:
    """The cookies of a site at an origin, such as `https://shop.example.com`."""

    def __init__(self, auth: AuthClient, origin: str) -> None:
        self._auth, self._origin = auth, origin
        self._is_secure = origin.startswith("https://")
        prefix = "__Host-" if self._is_secure else ""  # only this host can then set the cookie
        self.name, self._age = f"{prefix}session", f"{prefix}token-age"

    def set(self, response: Response, answer: Answer) -> None:
        """Store the token where no script can read it, and begin its age."""
        end = answer.session.expire_time.ToDatetime(UTC)
        young = datetime.now(UTC) + TOKEN_AGE
        for name, value, expires in (
            (self.name, answer.session_token, end),
            (self._age, "young", young),
        ):
            response.set_cookie(
                name,
                value,
                expires=expires,
                secure=self._is_secure,
                httponly=True,
                samesite="lax",
            )

    def delete(self, response: Response) -> Response:
        """Delete the cookies, and return the response."""
        for name in (self.name, self._age):
            response.delete_cookie(name, secure=self._is_secure, httponly=True, samesite="lax")
        return response

    async def protect(self, request: Request, call_next: Next) -> Response:
        """Refuse forged requests, lead to the sign-in or the step-up, and add headers."""
        # Browsers send the origin with all other methods. A form of another site has another one.
        if request.method not in SAFE and request.headers.get("origin") != self._origin:
            return page("This request came from another site", status_code=403)
        response = await call_next(request)
        if "insufficient_user_authentication" in response.headers.get("www-authenticate", ""):
            response = lead_to_step_up(request)
        elif response.status_code == HTTPStatus.UNAUTHORIZED:  # by the SessionMiddleware
            response = self.delete(RedirectResponse("/sign-in", 303))
        response.headers.update(HEADERS)
        return response

    async def refresh(self, request: Request, call_next: Next) -> Response:
        """Replace the token of a session while a page is loaded, once in TOKEN_AGE."""
        response = await call_next(request)
        is_old = find_current_session() is not None and self._age not in request.cookies
        token = request.cookies.get(self.name)
        if request.method == "GET" and token and is_old:
            with suppress(AuthError):  # the next page tries again, or leads to the sign-in
                self.set(
                    response,
                    await self._auth.sessions.RefreshSession(
                        RefreshSessionRequest(session_token=token)
                    ),
                )
        return response


def lead_to_step_up(request: Request) -> Response:
    """Return a redirect to the page of the step-up, which leads back afterwards."""
    return RedirectResponse(f"/step-up?{urlencode({'next': request.url.path})}", 303)
