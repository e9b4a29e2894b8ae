"""The mail with one-time links."""
# ruff: noqa: INP001 - a module of an example

from urllib.parse import urlencode

from mail import MailSender

from tamatar.auth.v1 import user_service_pb2 as u
from tamatar_auth.client.aio import AuthClient

Issued = (
    u.CreateEmailVerificationResponse | u.CreateEmailChangeResponse | u.CreatePasswordResetResponse
)


class MailedLinks:
    """Sends links to the pages of an origin, such as `https://shop.example.com`."""

    def __init__(self, auth: AuthClient, mail: MailSender, origin: str) -> None:
        self.auth, self.mail, self.origin = auth, mail, origin

    async def send_link(self, path: str, issued: Issued) -> None:
        """Send a link with a token that was issued."""
        link = f"{self.origin}{path}?{urlencode({'token': issued.token})}"
        words = f"Open this link if you asked for it, and ignore it if not:\n\n{link}\n"
        await self.mail.send(issued.email, "Your link", words)

    async def send_verification(self, email: str) -> None:
        """Send the link that verifies the address of a user."""
        found = await self.auth.users.GetUser(u.GetUserRequest(email=email))
        issued = await self.auth.users.CreateEmailVerification(
            u.CreateEmailVerificationRequest(user_id=found.user.user_id)
        )
        await self.send_link("/verify", issued)

    async def send_reminder(self, email: str) -> None:
        """Remind a user of the account."""
        found = await self.auth.users.GetUser(u.GetUserRequest(email=email))
        words = f"You have an account already. A new password: {self.origin}/forgot"
        await self.mail.send(found.user.email, "You have an account", words)
