"""The pages that sign in and out, by password, second factor or passkey."""
# ruff: noqa: INP001, D102 - a module of an example, and each path has a handler

from contextlib import suppress

from mailed_links import MailedLinks
from pages import form, links, page, posted, read_form, text
from proofs import SIGN_IN_PROOFS, ask_again, challenge_forms, posted_answer
from session_cookie import SAFE, SessionCookie
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from tamatar.auth.v1 import session_service_pb2 as s
from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar.auth.v1.session_pb2 import SessionClient
from tamatar_auth.client import AuthError
from tamatar_auth.client.aio import AuthClient


class SignIn:
    """The handlers of the pages."""

    def __init__(self, auth: AuthClient, mailed: MailedLinks, cookie: SessionCookie) -> None:
        self.auth, self.mailed, self.cookie = auth, mailed, cookie

    async def sign_in(self, request: Request) -> Response:
        if request.method in SAFE:
            return page(
                "Sign in",
                form("/sign-in", "Sign in", "email", "password"),
                links(Forgot_your_password="/forgot"),  # noqa: S106
                "<h2>With a passkey</h2>",
                form("/sign-in/passkey", "Sign in with a passkey", "any_email"),
            )
        email, password = await posted(request, "email", "password")
        try:
            started = await self.auth.sessions.CreateSession(
                s.CreateSessionRequest(email=email, password=password, client=client(request))
            )
        except AuthError as error:
            if error.reason != ErrorReason.EMAIL_NOT_VERIFIED:
                raise
            # The password was right.
            task = BackgroundTask(self.mailed.send_verification, email)
            return page("Check your mail", text("Verify your address first."), background=task)
        if started.HasField("challenge"):  # there is no session yet
            forms = challenge_forms("/sign-in/proof", started.challenge)
            return page("Prove that it is you", *forms)
        return self.welcome(started)

    async def begin_passkey(self, request: Request) -> Response:
        email = (await read_form(request)).get("any_email", "")
        begun = await self.auth.sessions.BeginPasskeySignIn(
            s.BeginPasskeySignInRequest(email=email)
        )
        forms = challenge_forms("/sign-in/proof", begun.challenge)
        return page("Sign in with a passkey", *forms, links(Other_ways="/sign-in"))

    async def prove(self, request: Request) -> Response:
        answer = await posted_answer(request, *SIGN_IN_PROOFS)
        try:
            started = await self.auth.sessions.CompleteSignIn(
                s.CompleteSignInRequest(**answer, client=client(request))
            )
        except AuthError as error:
            if error.reason != ErrorReason.INVALID_PROOF:
                raise
            return ask_again("/sign-in/proof", answer, start="/sign-in")
        return self.welcome(started)

    async def sign_out(self, request: Request) -> Response:
        token = request.cookies.get(self.cookie.name, "")
        with suppress(AuthError):  # the cookie is deleted in any case
            await self.auth.sessions.RevokeSession(s.RevokeSessionRequest(session_token=token))
        return self.cookie.delete(RedirectResponse("/", 303))

    def welcome(self, started: s.CreateSessionResponse | s.CompleteSignInResponse) -> Response:
        response = RedirectResponse("/account", 303)
        self.cookie.set(response, started)
        return response


def client(request: Request) -> SessionClient:
    """Return what the user's list of sessions shows of a browser."""
    agent = "".join(filter(str.isprintable, request.headers.get("user-agent", "")))[:512]
    address = request.client.host if request.client else ""
    return SessionClient(user_agent=agent, ip_address=address)
