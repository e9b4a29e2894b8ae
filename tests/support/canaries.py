"""The secrets of the whole suite, and all that the service told in which none may stand.

Log lines at every level, statuses with their details and trailing metadata, spans, metrics and
what our commands write: each is collected from every test, and searched when all have run.
"""

import asyncio
import base64
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, Self

import grpc
import structlog
from google.protobuf.message import Message

from tamatar_auth.observability.logs import LogFormatter

FORMS = re.compile(r"tm[suc]_[\w-]{20,}|\$2[aby]\$\d\d\$|\$hmac-sha384\$")
"""How tokens and hashes look, whoever made them."""

LEAST_LETTERS = 6
"""A password of fewer different letters may stand anywhere by chance."""

MOST_TOLD = 20
"""Of more findings the last are not told."""

PAGE_TOKEN_KEY = "canary: the key that signs the page tokens"
PASSWORD_KEY = "canary: the key of all the passwords"
ENCODED_PASSWORD_KEY = base64.b64encode(PASSWORD_KEY.encode()).decode()
PASSWORD_KEYS = f"canary:{ENCODED_PASSWORD_KEY}"
DSN_PASSWORDS = ("hunter2", "Hunter2")
SECRETS_OF_SETTINGS = (PAGE_TOKEN_KEY, PASSWORD_KEY, ENCODED_PASSWORD_KEY, *DSN_PASSWORDS)
"""What the settings of the tests have that nobody may read elsewhere."""

_FORMATTER = LogFormatter()


class Canaries:
    """Secrets, and the texts that were told."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()
        self._told: dict[str, str] = {}
        self._sources: list[tuple[str, Callable[[], str]]] = []
        self._reading: set[asyncio.Task[None]] = set()

    def keep(self, *secrets: str) -> None:
        """Take values as secrets from now on, also in what was told before."""
        self._secrets |= set(secrets)

    def keep_those_of(self, message: object) -> None:
        """Take the fields of a message as secrets that its proto marks as such."""
        if isinstance(message, Message):
            self.keep(*(text for text in _redacted(message) if len(set(text)) >= LEAST_LETTERS))

    def hear(self, where: str, text: str) -> None:
        """Note what was told."""
        self._told.setdefault(text, _place(where))

    def hear_later(self, where: str, source: Callable[[], str]) -> None:
        """Note what a source tells when all tests have run."""
        self._sources.append((_place(where), source))

    def hear_status(self, call: grpc.aio.Call) -> None:
        """Note how a call ended that has ended."""
        task = asyncio.get_running_loop().create_task(self._read_status(call))
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)

    def found(self) -> list[str]:
        """Tell of each secret that stands somewhere what it is, and where it is first."""
        for place, source in self._sources:
            self._told.setdefault(source(), place)
        whole = "\n".join(self._told)
        known = [form for secret in self._secrets for form in _forms(secret) if form in whole]
        unknown = [found[0] for found in FORMS.finditer(whole)]
        return [self._first(secret) for secret in dict.fromkeys(known + unknown)][:MOST_TOLD]

    def _first(self, secret: str) -> str:
        text, place = next((text, place) for text, place in self._told.items() if secret in text)
        at = text.index(secret)
        return f"{secret!r} in {place}: {text[max(0, at - 100) : at + 100]!r}"

    async def _read_status(self, call: grpc.aio.Call) -> None:
        self.hear("the message of a status", await call.details() or "")
        for name, value in await call.trailing_metadata() or ():
            text = value if isinstance(value, str) else value.decode(errors="replace")
            self.hear("the trailing metadata of a call", f"{name}: {text}")


SUITE = Canaries()
"""Those of all tests that run in this process."""


class OverheardChannel:
    """A channel whose requests name secrets and whose statuses must tell none."""

    def __init__(self, channel: grpc.aio.Channel, canaries: Canaries) -> None:
        self._channel = channel
        self._canaries = canaries

    def __getattr__(self, name: str) -> Any:
        made = getattr(self._channel, name)
        if name in {"unary_unary", "unary_stream", "stream_unary", "stream_stream"}:
            return lambda *args, **named: self._overheard(made(*args, **named))
        return made

    async def __aenter__(self) -> Self:
        await self._channel.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    def _overheard(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def start(request: Any = None, **named: Any) -> Any:
            self._canaries.keep_those_of(request)
            call = method(request, **named)
            call.add_done_callback(self._canaries.hear_status)
            return call

        return start


def overhear_channels(canaries: Canaries) -> None:
    """Overhear every channel that a test opens: no test can forget to have its own overheard."""
    insecure, secure = grpc.aio.insecure_channel, grpc.aio.secure_channel
    replaced: Any = grpc.aio
    replaced.insecure_channel = lambda *args, **named: OverheardChannel(
        insecure(*args, **named), canaries
    )
    replaced.secure_channel = lambda *args, **named: OverheardChannel(
        secure(*args, **named), canaries
    )


def overhear_logs(canaries: Canaries) -> None:
    """Overhear what is logged: ours at every level, of libraries what the service would log."""
    structlog.configure(wrapper_class=overheard_logger(canaries))
    logging.getLogger().addHandler(_Handler(canaries))


def overheard_logger(canaries: Canaries) -> Any:
    """Make the class of a logger whose lines are heard as the service would write them.

    It hears before the processors, which tests take away to see the events themselves.
    """

    class Overheard(structlog.make_filtering_bound_logger(logging.NOTSET)):  # type: ignore[misc]
        def _proxy_to_logger(self, method: str, event: Any = None, /, **named: Any) -> Any:
            told = {**self._context, **named, "event": event}
            record = logging.makeLogRecord(
                {"msg": told, "levelname": method, "_logger": None, "_name": method}
            )
            canaries.hear("a log line", _FORMATTER.format(record))
            return super()._proxy_to_logger(method, event, **named)

    return Overheard


class _Handler(logging.Handler):
    def __init__(self, canaries: Canaries) -> None:
        super().__init__(logging.WARNING)
        self._canaries = canaries

    def emit(self, record: logging.LogRecord) -> None:
        self._canaries.hear("a log line of a library", _FORMATTER.format(record))


def _place(where: str) -> str:
    return f"{where} ({os.environ.get('PYTEST_CURRENT_TEST', 'no test')})"


def _redacted(message: Message) -> Iterator[str]:
    for field, value in message.ListFields():
        values: Any = [value] if isinstance(value, (str, Message)) else value
        if field.GetOptions().debug_redact:
            yield from values
        elif field.message_type is not None:
            for part in values:
                yield from _redacted(part)


def _forms(secret: str) -> set[str]:
    """Give a secret as it is and as JSON writes it."""
    return {secret, json.dumps(secret)[1:-1]}
