"""A web application with sign-up, sign-in, forgotten passwords and changes of address.

README.md says how to start it, and docs/guide/user-story.md explains each step.
"""
# ruff: noqa: INP001, D102 - a script, and each path has a handler

import argparse
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import parse_qs, urlencode

import uvicorn
from mail import MailSender, SmtpMailSender
from pages import form, links, page, text
from session_cookie import SAFE, SessionCookie
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from tamatar.auth.v1 import session_service_pb2 as s
from tamatar.auth.v1 import user_service_pb2 as u
from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar.auth.v1.session_pb2 import SessionClient
from tamatar.auth.v1.user_pb2 import User
from tamatar_auth.client import AlreadyExistsError, AuthError, current_session
from tamatar_auth.client.aio import AuthClient, SessionGuard, connect
from tamatar_auth.client.asgi import SessionMiddleware

MAX_FORM_SIZE = 8192
OPEN = ["/", "/sign-up", "/verify", "/sign-in", "/sign-out", "/forgot", "/reset", "/change"]
EXPLANATIONS = {
    ErrorReason.INVALID_CREDENTIALS: (403, "The address or the password is wrong."),
    ErrorReason.TOO_MANY_ATTEMPTS: (429, "Too many wrong passwords. Try again later."),
    ErrorReason.EMAIL_TAKEN: (409, "Another account has this address."),
    ErrorReason.USER_TOKEN_INVALID: (400, "This link was used, replaced or has expired."),
}

log = logging.getLogger("web")


class Site:
    """The handlers of the pages."""

    def __init__(self, auth: AuthClient, mail: MailSender, origin: str) -> None:
        """Serve the pages at an origin, such as `https://shop.example.com`."""
        self.auth, self.mail, self.origin = auth, mail, origin
        self.cookie = SessionCookie(auth, origin)

    async def home(self, _request: Request) -> Response:
        return page("A shop", links(Sign_up="/sign-up", Sign_in="/sign-in", Account="/account"))

    async def sign_up(self, request: Request) -> Response:
        if request.method in SAFE:
            return page("Sign up", form("/sign-up", "Sign up", "email", "new_password"))
        email, password = await posted(request, "email", "new_password")
        try:
            await self.auth.users.CreateUser(u.CreateUserRequest(email=email, password=password))
            task = BackgroundTask(self.mail_verification, email)
        except AlreadyExistsError:  # only the owner of the address learns it
            task = BackgroundTask(self.mail_reminder, email)
        return page("Check your mail", text("The link in it finishes."), background=task)

    async def verify(self, request: Request) -> Response:
        if request.method in SAFE:  # scanners of mail open links, too, and consume nothing
            token = request.query_params.get("token", "")
            return page("Verify your address", form("/verify", "Verify", token=token))
        (token,) = await posted(request, "token")
        await self.auth.users.VerifyEmail(u.VerifyEmailRequest(token=token))
        return page("Your address is verified", links(Sign_in="/sign-in"))

    async def sign_in(self, request: Request) -> Response:
        if request.method in SAFE:
            fields = form("/sign-in", "Sign in", "email", "password")
            return page("Sign in", fields, links(Forgot_your_password="/forgot"))  # noqa: S106
        email, password = await posted(request, "email", "password")
        try:
            started = await self.start_session(request, email, password)
        except AuthError as error:
            if error.reason != ErrorReason.EMAIL_NOT_VERIFIED:
                raise
            task = BackgroundTask(self.mail_verification, email)  # the password was right
            return page("Check your mail", text("Verify your address first."), background=task)
        response = RedirectResponse("/account", 303)
        self.cookie.set(response, started)
        return response

    async def sign_out(self, request: Request) -> Response:
        token = request.cookies.get(self.cookie.name, "")
        with suppress(AuthError):  # the cookie is deleted in any case
            await self.auth.sessions.RevokeSession(s.RevokeSessionRequest(session_token=token))
        return self.cookie.delete(RedirectResponse("/", 303))

    async def forgot(self, request: Request) -> Response:
        if request.method in SAFE:
            return page("Forgot your password?", form("/forgot", "Send a link", "email"))
        (email,) = await posted(request, "email")
        issued = await self.auth.users.CreatePasswordReset(
            u.CreatePasswordResetRequest(email=email)
        )
        # The response is the same with and without a user, and is sent before the mail.
        task = BackgroundTask(self.mail_link, "/reset", issued) if issued.token else None
        return page("Check your mail", text("If you have an account."), background=task)

    async def reset(self, request: Request) -> Response:
        if request.method in SAFE:
            token = request.query_params.get("token", "")
            return page("New password", form("/reset", "Set", "new_password", token=token))
        token, password = await posted(request, "token", "new_password")
        await self.auth.users.ResetPassword(
            u.ResetPasswordRequest(token=token, new_password=password)
        )
        return page("Your password is changed", links(Sign_in="/sign-in"))

    async def account(self, _request: Request) -> Response:
        user = await self.get_user()
        return page(
            "Account",
            text(f"You are signed in as {user.email}."),
            form("/account/email", "Change the address", "new_email", "password"),
            form("/sign-out", "Sign out"),
        )

    async def change_email(self, request: Request) -> Response:
        email, password = await posted(request, "new_email", "password")
        user = await self.get_user()
        # A stolen session must not be enough. Wrong passwords count as attempts to sign in.
        started = await self.start_session(request, user.email, password)
        await self.auth.sessions.RevokeSession(
            s.RevokeSessionRequest(session_token=started.session_token)
        )
        issued = await self.auth.users.CreateEmailChange(
            u.CreateEmailChangeRequest(user_id=user.user_id, email=email)
        )
        task = BackgroundTask(self.mail_link, "/change", issued)
        words = text("The link in it changes the address. Until then the old one stays.")
        return page("Check your new mailbox", words, background=task)

    async def confirm_change(self, request: Request) -> Response:
        if request.method in SAFE:
            token = request.query_params.get("token", "")
            return page("Change your address", form("/change", "Change", token=token))
        (token,) = await posted(request, "token")
        changed = await self.auth.users.ConfirmEmailChange(u.ConfirmEmailChangeRequest(token=token))
        words = f"Your address is now {changed.user.email}. If this was not you, write to us."
        task = BackgroundTask(self.mail.send, changed.previous_email, "Address changed", words)
        return page("Your address is changed", links(Account="/account"), background=task)

    async def get_user(self) -> User:
        """Return the user of the session. The guard may have cached an older address."""
        request = u.GetUserRequest(user_id=current_session().user_id)
        return (await self.auth.users.GetUser(request)).user

    async def start_session(
        self, request: Request, email: str, password: str
    ) -> s.CreateSessionResponse:
        agent = "".join(filter(str.isprintable, request.headers.get("user-agent", "")))[:512]
        address = request.client.host if request.client else ""
        client = SessionClient(user_agent=agent, ip_address=address)
        return await self.auth.sessions.CreateSession(
            s.CreateSessionRequest(email=email, password=password, client=client)
        )

    async def mail_verification(self, email: str) -> None:
        found = await self.auth.users.GetUser(u.GetUserRequest(email=email))
        issued = await self.auth.users.CreateEmailVerification(
            u.CreateEmailVerificationRequest(user_id=found.user.user_id)
        )
        await self.mail_link("/verify", issued)

    async def mail_reminder(self, email: str) -> None:
        found = await self.auth.users.GetUser(u.GetUserRequest(email=email))
        words = f"You have an account already. A new password: {self.origin}/forgot"
        await self.mail.send(found.user.email, "You have an account", words)

    async def mail_link(self, path: str, issued: "Issued") -> None:
        link = f"{self.origin}{path}?{urlencode({'token': issued.token})}"
        words = f"Open this link if you asked for it, and ignore it if not:\n\n{link}\n"
        await self.mail.send(issued.email, "Your link", words)


Issued = (
    u.CreateEmailVerificationResponse | u.CreateEmailChangeResponse | u.CreatePasswordResetResponse
)


async def posted(request: Request, *names: str) -> list[str]:
    """Return the fields of a form, all of which must be filled."""
    if int(request.headers.get("content-length", MAX_FORM_SIZE + 1)) > MAX_FORM_SIZE:
        raise HTTPException(413)
    fields = parse_qs((await request.body()).decode(errors="replace"))
    if not fields.keys() >= set(names):
        raise HTTPException(400, "A field is empty.")
    return [fields[name][0] for name in names]


async def explain(_request: Request, error: Exception) -> Response:
    """Answer a call that failed."""
    assert isinstance(error, AuthError)  # noqa: S101 - for type checkers
    rules = [f"{field} {' and '.join(rules)}" for field, rules in error.fields.items()]
    if rules:
        return page("That did not work", *map(text, rules), status_code=400)
    if error.reason not in EXPLANATIONS:
        log.error("%s", error)
    status, words = EXPLANATIONS.get(error.reason, (503, "Try again later."))
    return page("That did not work", text(words), status_code=status)


def create_app(auth: AuthClient, mail: MailSender, origin: str) -> Starlette:
    """Return the application."""
    site, guard = Site(auth, mail, origin), SessionGuard(auth)
    handlers = {
        "/": site.home,
        "/sign-up": site.sign_up,
        "/verify": site.verify,
        "/sign-in": site.sign_in,
        "/forgot": site.forgot,
        "/reset": site.reset,
        "/account": site.account,
        "/change": site.confirm_change,
    }
    routes = [Route(path, handler, methods=["GET", "POST"]) for path, handler in handlers.items()]
    routes.append(Route("/sign-out", site.sign_out, methods=["POST"]))
    routes.append(Route("/account/email", site.change_email, methods=["POST"]))
    middleware = [
        Middleware(BaseHTTPMiddleware, dispatch=site.cookie.protect),
        Middleware(SessionMiddleware, guard=guard, open_paths=OPEN, cookie=site.cookie.name),
        Middleware(BaseHTTPMiddleware, dispatch=site.cookie.refresh),
    ]

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        await guard.close()
        await auth.close()

    failures = {AuthError: explain}
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
    origin = given.origin or f"http://127.0.0.1:{given.port}"
    application = create_app(
        connect(given.auth), SmtpMailSender(given.smtp, "shop@example.com"), origin
    )
    # No access log: its lines would have the queries, and so one-time tokens.
    uvicorn.run(application, host="127.0.0.1", port=given.port, access_log=False)
