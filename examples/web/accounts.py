"""The pages of an account: sign-up, verification, forgotten password, change of address."""
# ruff: noqa: INP001, D102 - a module of an example, and each path has a handler

from mailed_links import MailedLinks
from pages import form, links, page, posted, text
from session_cookie import SAFE
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response

from tamatar.auth.v1 import user_service_pb2 as u
from tamatar.auth.v1.user_pb2 import User
from tamatar_auth.client import AAL2, AlreadyExistsError, current_session
from tamatar_auth.client.aio import AuthClient


class Accounts:
    """The handlers of the pages."""

    def __init__(self, auth: AuthClient, mailed: MailedLinks) -> None:
        self.auth, self.mailed = auth, mailed

    async def home(self, _request: Request) -> Response:
        return page("A shop", links(Sign_up="/sign-up", Sign_in="/sign-in", Account="/account"))

    async def sign_up(self, request: Request) -> Response:
        if request.method in SAFE:
            return page("Sign up", form("/sign-up", "Sign up", "email", "new_password"))
        email, password = await posted(request, "email", "new_password")
        try:
            await self.auth.users.CreateUser(u.CreateUserRequest(email=email, password=password))
            task = BackgroundTask(self.mailed.send_verification, email)
        except AlreadyExistsError:  # only the owner of the address learns it
            task = BackgroundTask(self.mailed.send_reminder, email)
        return page("Check your mail", text("The link in it finishes."), background=task)

    async def verify(self, request: Request) -> Response:
        if request.method in SAFE:  # scanners of mail open links, too, and consume nothing
            token = request.query_params.get("token", "")
            return page("Verify your address", form("/verify", "Verify", token=token))
        (token,) = await posted(request, "token")
        await self.auth.users.VerifyEmail(u.VerifyEmailRequest(token=token))
        return page("Your address is verified", links(Sign_in="/sign-in"))

    async def forgot(self, request: Request) -> Response:
        if request.method in SAFE:
            return page("Forgot your password?", form("/forgot", "Send a link", "email"))
        (email,) = await posted(request, "email")
        issued = await self.auth.users.CreatePasswordReset(
            u.CreatePasswordResetRequest(email=email)
        )
        # The response is the same with and without a user, and is sent before the mail.
        task = BackgroundTask(self.mailed.send_link, "/reset", issued) if issued.token else None
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
        user, session = await self.get_user(), current_session().session
        level = "AAL2" if session.assurance_level == AAL2 else "AAL1"
        return page(
            "Account",
            text(f"You are signed in as {user.email}."),
            text(f"Level {level}: {', '.join(session.authentication_methods)}"),
            links(Pay="/pay", Second_factors="/factors", Change_the_address="/account/email"),
            form("/sign-out", "Sign out"),
        )

    async def change_email(self, request: Request) -> Response:
        if request.method in SAFE:
            return page("Change the address", form("/account/email", "Change", "new_email"))
        (email,) = await posted(request, "new_email")
        issued = await self.auth.users.CreateEmailChange(
            u.CreateEmailChangeRequest(user_id=current_session().user_id, email=email)
        )
        task = BackgroundTask(self.mailed.send_link, "/change", issued)
        words = text("The link in it changes the address. Until then the old one stays.")
        return page("Check your new mailbox", words, background=task)

    async def confirm_change(self, request: Request) -> Response:
        if request.method in SAFE:
            token = request.query_params.get("token", "")
            return page("Change your address", form("/change", "Change", token=token))
        (token,) = await posted(request, "token")
        changed = await self.auth.users.ConfirmEmailChange(u.ConfirmEmailChangeRequest(token=token))
        words = f"Your address is now {changed.user.email}. If this was not you, write to us."
        task = BackgroundTask(
            self.mailed.mail.send, changed.previous_email, "Address changed", words
        )
        return page("Your address is changed", links(Account="/account"), background=task)

    async def get_user(self) -> User:
        """Return the user of the session. The guard may have cached an older address."""
        request = u.GetUserRequest(user_id=current_session().user_id)
        return (await self.auth.users.GetUser(request)).user
