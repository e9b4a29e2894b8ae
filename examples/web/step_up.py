"""The page where signed-in users prove again who they are, and a page that asks for it."""
# ruff: noqa: INP001, D102 - a module of an example, and each path has a handler

from datetime import timedelta
from urllib.parse import urlencode

from pages import form, links, page, read_form, text
from proofs import STEP_UP_PROOFS, ask_again, challenge_forms, posted_answer
from session_cookie import SAFE, SessionCookie
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from tamatar.auth.v1 import session_service_pb2 as s
from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar.auth.v1.factor_pb2 import FactorKind
from tamatar_auth.client import AAL2, AuthError, StepUp, current_session
from tamatar_auth.client.aio import AuthClient

STEP_UP = {
    "/pay": StepUp(level=AAL2, max_age=timedelta(minutes=5)),
    "/account/email": StepUp(max_age=timedelta(minutes=5)),
}
"""The pages that a stolen session must not be enough for."""

PASSWORD = FactorKind.FACTOR_KIND_PASSWORD


class StepUpPages:
    """The handlers of the pages."""

    def __init__(self, auth: AuthClient, cookie: SessionCookie) -> None:
        self.auth, self.cookie = auth, cookie

    async def step_up(self, request: Request) -> Response:
        if request.method not in SAFE:
            return await self.complete(request)
        path = next_page(request.query_params.get("next", ""))
        token = request.cookies.get(self.cookie.name, "")
        begun = await self.auth.sessions.BeginStepUp(s.BeginStepUpRequest(session_token=token))
        kinds, level = begun.challenge.kinds, current_session().session.assurance_level
        if level < AAL2:
            if set(kinds) != {PASSWORD}:
                kinds[:] = set(kinds) - {PASSWORD}  # it would not raise the level
            elif path in STEP_UP and STEP_UP[path].level:
                words = text("This page needs more than a password.")
                return page("Add a second factor first", words, links(Add_one="/factors"))
        forms = challenge_forms("/step-up", begun.challenge, next=path)
        return page("Confirm that it is you", *forms)

    async def complete(self, request: Request) -> Response:
        answer = await posted_answer(request, *STEP_UP_PROOFS)
        path = next_page((await read_form(request)).get("next", ""))
        token = request.cookies.get(self.cookie.name, "")
        try:
            proven = await self.auth.sessions.CompleteStepUp(
                s.CompleteStepUpRequest(session_token=token, **answer)
            )
        except AuthError as error:
            if error.reason != ErrorReason.INVALID_PROOF:
                raise
            start = f"/step-up?{urlencode({'next': path})}"
            return ask_again("/step-up", answer, start, next=path)
        response = RedirectResponse(path, 303)
        self.cookie.set(response, proven)  # the old token no longer works
        return response

    async def pay(self, request: Request) -> Response:
        if request.method in SAFE:
            return page("Pay", text("A ripe tomato: 1.00 €"), form("/pay", "Pay"))
        return page("Paid", text("Thank you!"), links(Account="/account"))


def next_page(path: str) -> str:
    """Return the page to go on with. A link of another site may name any path."""
    if path in STEP_UP:
        return path
    return "/factors" if path.startswith("/factors") else "/account"
