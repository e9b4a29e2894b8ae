"""The web application of examples/web: its process, the mail that it sends, and a visitor."""

import asyncio
import contextlib
import re
import signal
import socket
import sys
from email import message_from_bytes
from email.message import Message
from http.cookiejar import CookieJar
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, ProxyHandler, Request, build_opener
from uuid import uuid4

import psycopg
import pytest
from aiosmtpd.smtp import SMTP

from tests.support.commands import ROOT, environment, serving
from tests.support.databases import TEMPLATE
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
        return re.search(r"http://localhost:\d+(/\S+)", await self.receive(address))[1]

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
    async with running_application(sample_address, mailbox, port, tmp_path) as origin:
        yield origin


class FactorSite(NamedTuple):
    """A running application, and the database of its service."""

    origin: str
    database: str

    def age_sessions(self, email: str) -> None:
        """Let the authentication of all sessions of a user be older than any page allows."""
        with psycopg.connect(self.database) as connection:
            connection.execute(
                "UPDATE sessions SET authenticated_at = now() - interval '1 hour'"
                " WHERE user_id = (SELECT id FROM users WHERE email = %s)",
                [email],
            )


@pytest.fixture
async def factor_site(postgres, mailbox, tmp_path):
    """An application whose origin the service accepts for passkeys."""
    name = f"factors_{uuid4().hex}"
    url = postgres.create(name, TEMPLATE)
    try:
        with contextlib.ExitStack() as stack:
            probe = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            port = probe.getsockname()[1]
            settings = {
                "TAMATAR_DATABASE_URL": url,
                "TAMATAR_PASSKEY_RELYING_PARTY_ID": "localhost",
                "TAMATAR_PASSKEY_ORIGINS": f"http://localhost:{port}",
            }
            server = stack.enter_context(serving("--dev", cwd=tmp_path, **settings))
            (address,) = await asyncio.to_thread(lambda: server.addresses)
            probe.close()
            async with running_application(address, mailbox, port, tmp_path) as origin:
                yield FactorSite(origin, url)
    finally:
        postgres.drop(name)


@contextlib.asynccontextmanager
async def running_application(address, mailbox, port, folder):
    """Run the application while the block runs; yield its origin."""
    options = ["--auth", address, "--smtp", mailbox.address, "--port", str(port)]
    output = folder / "output"
    with output.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable, APP, *options, env=environment(), stdout=file, stderr=file
        )
    try:
        await eventually(lambda: _answers(port))
        yield f"http://localhost:{port}"
    finally:
        process.terminate()
        assert await process.wait() in {0, -signal.SIGTERM}
        said = output.read_text()
        for secret in ("tmu_", "tms_", "tmh_", "otpauth:"):
            assert secret not in said
        assert "Traceback" not in said


def _answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
