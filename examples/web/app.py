"""A web application with sign-up, sign-in, second factors, passkeys and step-up.

README.md says how to start it. docs/guide/user-story.md and docs/guide/second-factors.md explain
each step.
"""
# ruff: noqa: INP001 - a script

import argparse
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from accounts import Accounts
from factors import Factors
from mail import MailSender, SmtpMailSender
from mailed_links import MailedLinks
from pages import page, text
from session_cookie import SessionCookie, lead_to_step_up
from sign_in import SignIn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from step_up import STEP_UP, StepUpPages

from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar_auth.client import AuthError, SessionError
from tamatar_auth.client.aio import AuthClient, SessionGuard, connect
from tamatar_auth.client.asgi import SessionMiddleware

OPEN = ["/", "/static/*", "/sign-up", "/verify", "/sign-in", "/sign-in/*", "/sign-out"]
OPEN += ["/forgot", "/reset", "/change"]
EXPLANATIONS = {
    ErrorReason.INVALID_CREDENTIALS: (403, "The address or the password is wrong."),
    ErrorReason.INVALID_PROOF: (403, "It was wrong, was used before, or came too late."),
    ErrorReason.TOO_MANY_ATTEMPTS: (429, "Too many wrong attempts. Try again later."),
    ErrorReason.EMAIL_NOT_VERIFIED: (403, "Verify your address first."),
    ErrorReason.EMAIL_TAKEN: (409, "Another account has this address."),
    ErrorReason.PASSKEY_TAKEN: (409, "This passkey is registered already."),
    ErrorReason.TOO_MANY_FACTORS: (409, "Delete a factor first."),
    ErrorReason.FACTOR_NOT_FOUND: (404, "It is deleted already."),
    ErrorReason.USER_TOKEN_INVALID: (400, "This link was used, replaced or has expired."),
}

log = logging.getLogger("web")


async def explain(request: Request, error: Exception) -> Response:
    """Answer a call that failed."""
    assert isinstance(error, AuthError)  # noqa: S101 - for type checkers
    if error.reason == ErrorReason.STEP_UP_REQUIRED:
        return lead_to_step_up(request)
    if isinstance(error, SessionError):
        return RedirectResponse("/sign-in", 303)
    rules = [f"{field} {' and '.join(rules)}" for field, rules in error.fields.items()]
    if rules:
        return page("That did not work", *map(text, rules), status_code=400)
    if error.reason not in EXPLANATIONS:
        log.error("%s", error)
    status, words = EXPLANATIONS.get(error.reason, (503, "Try again later."))
    return page("That did not work", text(words), status_code=status)


async def show(_request: Request, error: Exception) -> Response:
    """Answer a request for no page, or with an empty field."""
    assert isinstance(error, HTTPException)  # noqa: S101 - for type checkers
    return page("That did not work", text(error.detail), status_code=error.status_code)


def create_app(auth: AuthClient, mail: MailSender, origin: str) -> Starlette:
    """Return the application."""
    guard, cookie = SessionGuard(auth), SessionCookie(auth, origin)
    mailed = MailedLinks(auth, mail, origin)
    accounts, sign_in = Accounts(auth, mailed), SignIn(auth, mailed, cookie)
    factors, step_up = Factors(auth, mail, cookie), StepUpPages(auth, cookie)
    pages = {
        "/": accounts.home,
        "/sign-up": accounts.sign_up,
        "/verify": accounts.verify,
        "/forgot": accounts.forgot,
        "/reset": accounts.reset,
        "/account": accounts.account,
        "/account/email": accounts.change_email,
        "/change": accounts.confirm_change,
        "/sign-in": sign_in.sign_in,
        "/step-up": step_up.step_up,
        "/pay": step_up.pay,
    }
    actions = {
        "/sign-in/passkey": sign_in.begin_passkey,
        "/sign-in/proof": sign_in.prove,
        "/sign-out": sign_in.sign_out,
        "/factors/totp": factors.add_totp,
        "/factors/totp/confirm": factors.confirm_totp,
        "/factors/passkey": factors.add_passkey,
        "/factors/passkey/finish": factors.finish_passkey,
        "/factors/recovery-codes": factors.new_codes,
        "/factors/delete": factors.delete,
    }
    routes = [
        *(Route(path, handler, methods=["GET", "POST"]) for path, handler in pages.items()),
        *(Route(path, handler, methods=["POST"]) for path, handler in actions.items()),
        Route("/factors", factors.show),
        Mount("/static", StaticFiles(directory=Path(__file__).with_name("static"))),
    ]
    middleware = [
        Middleware(BaseHTTPMiddleware, dispatch=cookie.protect),
        Middleware(
            SessionMiddleware, guard=guard, open_paths=OPEN, cookie=cookie.name, step_up=STEP_UP
        ),
        Middleware(BaseHTTPMiddleware, dispatch=cookie.refresh),
    ]

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        await guard.close()
        await auth.close()

    failures = {AuthError: explain, HTTPException: show}
    return Starlette(
        routes=routes, middleware=middleware, exception_handlers=failures, lifespan=lifespan
    )


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--auth", default="127.0.0.1:50051", help="the address of Tamatar Auth")
    options.add_argument("--smtp", default="127.0.0.1:8025", help="the address of an SMTP server")
    options.add_argument("--port", default=8000, type=int, help="the port to listen on")
    options.add_argument("--origin", help="the origin that browsers see, if it is another one")
    given = options.parse_args()
    origin = given.origin or f"http://localhost:{given.port}"
    application = create_app(
        connect(given.auth), SmtpMailSender(given.smtp, "shop@example.com"), origin
    )
    # No access log: its lines would have the queries, and so one-time tokens.
    uvicorn.run(application, host="localhost", port=given.port, access_log=False)
