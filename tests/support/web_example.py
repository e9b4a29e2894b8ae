"""The web application of examples/web: its process, the mail that it sends, and a visitor."""

import asyncio
import re
import signal
import socket
import sys
from email import message_from_bytes
from email.message import Message
from http.cookiejar import CookieJar
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, ProxyHandler, Request, build_opener

import pytest
from aiosmtpd.smtp import SMTP

from tests.support.commands import ROOT, environment
from tests.support.waiting import eventually

APP = ROOT / "examples/web/app.py"


class Mailbox:
    """A handler of aiosmtpd that keeps the mail."""

    def __init__(self) -> None:
        self.mails: list[Message] = []

    async def handle_DATA(self, _server, _session, envelope):
        self.mails.append(message_from_bytes(envelope.content))
        return "250 OK"

    async def receive(self, address):
        """Wait for a mail to an address; remove it and return its text."""
        await eventually(lambda: self._find(address))
        mail = self._find(address)
        self.mails.remove(mail)
        return mail.get_payload(decode=True).decode()

    async def receive_link(self, address):
        """Wait for a mail to an address, and return the path of its link."""
        return re.search(r"http://127\.0\.0\.1:\d+(/\S+)", await self.receive(address))[1]

    def _find(self, address):
        return next((mail for mail in self.mails if mail["To"] == address), None)


class Visitor:
    """A browser without scripts: it keeps cookies, follows redirects and names its origin."""

    def __init__(self, site: str) -> None:
        self.site, self.cookies = site, CookieJar()
        processor = HTTPCookieProcessor(self.cookies)
        self._opener = build_opener(ProxyHandler({}), processor)

    async def get(self, path, *, method="GET", **headers):
        """Return the status and the text of a page."""
        return await self._send(path, None, headers, method=method)

    async def post(self, path, *, origin="", **fields):
        """Send a form, and return the status and the text of the page that answers."""
        data, headers = urlencode(fields).encode(), {"Origin": origin or self.site}
        return await self._send(path, data, headers)

    def token(self, name: str = "session") -> str | None:
        """Return the value of a cookie."""
        return next((each.value for each in self.cookies if each.name == name), None)

    async def _send(self, path, data, headers, *, method=None):
        request = Request(self.site + path, data, headers, method=method)  # noqa: S310 - loopback
        return await asyncio.to_thread(self._open, request)

    def _open(self, request):
        try:
            with self._opener.open(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()


@pytest.fixture
async def mailbox():
    """The mail of an SMTP server, whose address is `mailbox.address`."""
    mailbox = Mailbox()
    server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(mailbox, hostname="localhost"), "127.0.0.1", 0
    )
    mailbox.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield mailbox
    server.close()


@pytest.fixture
async def site(sample_address, mailbox, tmp_path):
    """The origin of the running application, whose output has no token."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    options = ["--auth", sample_address, "--smtp", mailbox.address, "--port", str(port)]
    output = tmp_path / "output"
    with output.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable, APP, *options, env=environment(), stdout=file, stderr=file
        )
    origin = f"http://127.0.0.1:{port}"
    try:
        await eventually(lambda: _answers(port))
        yield origin
    finally:
        process.terminate()
        assert await process.wait() in {0, -signal.SIGTERM}
        said = output.read_text()
        assert "tmu_" not in said
        assert "tms_" not in said
        assert "Traceback" not in said


def _answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
