"""The mail that the web application sends: a protocol, and an implementation with SMTP."""
# ruff: noqa: INP001 - a module of an example

import asyncio
import smtplib
from email.message import EmailMessage
from email.policy import SMTP
from typing import Protocol

LONG_LINES = SMTP.clone(max_line_length=998)
"""The rules of SMTP. With shorter lines, links would be encoded."""


class MailSender(Protocol):
    """Sends a message. Implement it with the API of your mail provider, or with a queue."""

    async def send(self, to: str, subject: str, text: str) -> None:
        """Send a message, or raise an exception."""


class SmtpMailSender:
    """Sends mail to an SMTP server, each message over a connection of its own on a thread."""

    def __init__(
        self, address: str, sender: str, *, username: str = "", password: str = ""
    ) -> None:
        """Send from `sender` to the server at `address`. A username turns on TLS and a login."""
        self._host, _, self._port = address.rpartition(":")
        self._sender, self._username, self._password = sender, username, password

    async def send(self, to: str, subject: str, text: str) -> None:
        """Send a message, or raise `OSError`."""
        message = EmailMessage(policy=LONG_LINES)
        message["From"], message["To"], message["Subject"] = self._sender, to, subject
        message.set_content(text)
        await asyncio.to_thread(self._deliver, message)

    def _deliver(self, message: EmailMessage) -> None:
        with smtplib.SMTP(self._host, int(self._port), timeout=10) as server:
            if self._username:
                server.starttls()
                server.login(self._username, self._password)
            server.send_message(message)
