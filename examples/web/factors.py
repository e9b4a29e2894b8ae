"""The pages where users add and remove their second factors."""
# ruff: noqa: INP001, D102 - a module of an example, and each path has a handler

from html import escape

import segno
from mail import MailSender
from pages import form, links, page, passkey_form, posted, text
from session_cookie import SessionCookie
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from tamatar.auth.v1 import factor_service_pb2 as f
from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar.auth.v1.factor_pb2 import Factor, FactorKind, StepUpRequirement
from tamatar_auth.client import AuthError, current_session
from tamatar_auth.client.aio import AuthClient

KINDS = {
    FactorKind.FACTOR_KIND_TOTP: "Authenticator app",
    FactorKind.FACTOR_KIND_RECOVERY_CODES: "Recovery codes",
    FactorKind.FACTOR_KIND_PASSKEY: "Passkey",
}


class Factors:
    """The handlers of the pages. Each change asks for a recent proof of who the user is."""

    def __init__(self, auth: AuthClient, mail: MailSender, cookie: SessionCookie) -> None:
        self.auth, self.mail, self.cookie = auth, mail, cookie

    async def show(self, _request: Request) -> Response:
        rows = "".join(row(each) for each in await self.list())
        return page(
            "Second factors",
            f'<ul class="factors">{rows}</ul>' if rows else text("You have none yet."),
            form("/factors/totp", "Add an authenticator app"),
            form("/factors/passkey", "Add a passkey"),
            form("/factors/recovery-codes", "Get new recovery codes"),
            links(Account="/account"),
        )

    async def add_totp(self, request: Request) -> Response:
        created = await self.auth.factors.CreateTotpFactor(
            f.CreateTotpFactorRequest(
                user_id=current_session().user_id, step_up=self.step_up(request)
            )
        )
        qr_code = segno.make(created.otpauth_uri, micro=False, error="m")
        secret = " ".join(created.secret[at : at + 4] for at in range(0, len(created.secret), 4))
        return page(
            "Add an authenticator app",
            text("Scan this with the app, and type the six digits that it shows."),
            qr_code.svg_inline(scale=4, light="#fff"),
            f'<p>Or type this into the app: <code id="secret">{secret}</code></p>',
            form(
                "/factors/totp/confirm", "Confirm", "totp_code", factor_id=created.factor.factor_id
            ),
        )

    async def confirm_totp(self, request: Request) -> Response:
        factor_id, code = await posted(request, "factor_id", "totp_code")
        try:
            await self.auth.factors.ConfirmTotpFactor(
                f.ConfirmTotpFactorRequest(
                    factor_id=factor_id, code=code, step_up=self.step_up(request)
                )
            )
        except AuthError as error:
            if error.reason != ErrorReason.INVALID_PROOF:
                raise
            again = form("/factors/totp/confirm", "Confirm", "totp_code", factor_id=factor_id)
            return page("Wrong code", text("Wait for the next one."), again, status_code=403)
        return await self.added()

    async def add_passkey(self, request: Request) -> Response:
        begun = await self.auth.factors.BeginPasskeyRegistration(
            f.BeginPasskeyRegistrationRequest(
                user_id=current_session().user_id, step_up=self.step_up(request)
            )
        )
        create = passkey_form(
            "/factors/passkey/finish",
            "Create the passkey",
            "label",
            create=begun.creation_options_json,
            registration_token=begun.registration_token,
            credential_json="",
        )
        return page("Add a passkey", create, links(Not_now="/factors"))

    async def finish_passkey(self, request: Request) -> Response:
        token, credential, label = await posted(
            request, "registration_token", "credential_json", "label"
        )
        await self.auth.factors.FinishPasskeyRegistration(
            f.FinishPasskeyRegistrationRequest(
                registration_token=token, credential_json=credential, label=label
            )
        )
        return await self.added()

    async def new_codes(self, request: Request) -> Response:
        created = await self.auth.factors.CreateRecoveryCodes(
            f.CreateRecoveryCodesRequest(
                user_id=current_session().user_id, step_up=self.step_up(request)
            )
        )
        return recovery_codes(created, self.notice("was replaced by new recovery codes"))

    async def delete(self, request: Request) -> Response:
        (factor_id,) = await posted(request, "factor_id")
        await self.auth.factors.DeleteFactor(
            f.DeleteFactorRequest(factor_id=factor_id, step_up=self.step_up(request))
        )
        return RedirectResponse("/factors", 303, background=self.notice("was removed"))

    async def added(self) -> Response:
        """Answer after a new factor: with recovery codes, if the user has none."""
        notice = self.notice("was added")
        if any(each.kind == FactorKind.FACTOR_KIND_RECOVERY_CODES for each in await self.list()):
            return RedirectResponse("/factors", 303, background=notice)
        # The call before has checked the session.
        request = f.CreateRecoveryCodesRequest(user_id=current_session().user_id)
        return recovery_codes(await self.auth.factors.CreateRecoveryCodes(request), notice)

    async def list(self) -> list[Factor]:
        """Return the factors of the user that count."""
        request = f.ListFactorsRequest(user_id=current_session().user_id)
        factors = (await self.auth.factors.ListFactors(request)).factors
        return [each for each in factors if each.HasField("confirm_time")]

    def notice(self, change: str) -> BackgroundTask:
        """Return the task that sends a mail about a change. It may have been made by a thief."""
        words = f"A second factor of your account {change}. If this was not you, write to us."
        email = current_session().user.email
        return BackgroundTask(self.mail.send, email, "Your second factors", words)

    def step_up(self, request: Request) -> StepUpRequirement:
        """Return the requirement that the session belongs to the user, and is strong and recent."""
        return StepUpRequirement(session_token=request.cookies.get(self.cookie.name, ""))


def row(factor: Factor) -> str:
    """Return the row of a factor."""
    name = escape(factor.label) or KINDS[factor.kind]
    details = [KINDS[factor.kind]] if factor.label else []
    if factor.kind == FactorKind.FACTOR_KIND_RECOVERY_CODES:
        details.append(f"{factor.remaining_code_count} left")
    used = (
        f"{factor.last_use_time.ToDatetime():%d %b %Y}" if factor.HasField("last_use_time") else ""
    )
    details.append(f"last used {used}" if used else "never used")
    button = form("/factors/delete", "Delete", factor_id=factor.factor_id)
    return f"<li><span>{name}<small>{', '.join(details)}</small></span>{button}</li>"


def recovery_codes(created: f.CreateRecoveryCodesResponse, notice: BackgroundTask) -> Response:
    """Return the page with new codes, which are shown only now."""
    codes = "".join(f"<li><code>{code}</code></li>" for code in created.codes)
    return page(
        "Your recovery codes",
        text("Each works once, if you lose your phone or passkey. Keep them: they are shown once."),
        f'<ul class="codes">{codes}</ul>',
        links(I_have_kept_them="/factors"),
        background=notice,
    )
