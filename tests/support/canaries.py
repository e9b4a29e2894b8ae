"""The secrets of the whole suite, and all output of the service, which must not hold them.

Log lines at every level, statuses with details and trailing metadata, spans, metrics and the
output of commands: each is collected from every test, and searched after all tests.
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

FORMS = re.compile(r"tm[such]_[\w-]{20,}|\$2[aby]\$\d\d\$|\$hmac-sha384\$")
"""The shapes of tokens and hashes of any origin."""

MIN_LETTERS = 6
"""A password with fewer different letters may occur anywhere by chance."""

MIN_LENGTH = 8
"""So may the six digits of a code."""

MAX_FINDINGS = 20
"""The number of findings that are reported."""

PAGE_TOKEN_KEY = "canary: the key that signs the page tokens"
PASSWORD_KEY = "canary: the key of all the passwords"
ENCODED_PASSWORD_KEY = base64.b64encode(PASSWORD_KEY.encode()).decode()
PASSWORD_KEYS = f"canary:{ENCODED_PASSWORD_KEY}"
FACTOR_KEY = "canary: the key of all second factors"
ENCODED_FACTOR_KEY = base64.b64encode(FACTOR_KEY.encode()).decode()
FACTOR_KEYS = f"canary:{ENCODED_FACTOR_KEY}"
DSN_PASSWORDS = ("hunter2", "Hunter2")
SECRETS_OF_SETTINGS = (
    PAGE_TOKEN_KEY,
    PASSWORD_KEY,
    ENCODED_PASSWORD_KEY,
    FACTOR_KEY,
    ENCODED_FACTOR_KEY,
    *DSN_PASSWORDS,
)
"""Secrets in the settings of the tests, which no output may hold."""

_FORMATTER = LogFormatter()


class Canaries:
    """Secrets, and the texts of outputs."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()
        self._texts: dict[str, str] = {}
        self._sources: list[tuple[str, Callable[[], str]]] = []
        self._reading: set[asyncio.Task[None]] = set()

    def add_secrets(self, *secrets: str) -> None:
        """Add values as secrets, also for the texts recorded before."""
        self._secrets |= set(secrets)

    def add_secrets_of(self, message: object) -> None:
        """Add the fields of a message that its proto marks as secrets."""
        if isinstance(message, Message):
            self.add_secrets(
                *(
                    text
                    for text in _redacted(message)
                    if len(set(text)) >= MIN_LETTERS and len(text) >= MIN_LENGTH
                )
            )

    def record(self, where: str, text: str) -> None:
        """Record a text of an output."""
        self._texts.setdefault(text, _place(where))

    def record_later(self, where: str, source: Callable[[], str]) -> None:
        """Record the text of a source when all tests have run."""
        self._sources.append((_place(where), source))

    def record_status(self, call: grpc.aio.Call) -> None:
        """Record the status of a call that has ended."""
        task = asyncio.get_running_loop().create_task(self._read_status(call))
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)

    def found(self) -> list[str]:
        """Return for each secret in a text what it is, and where it was first."""
        for place, source in self._sources:
            self._texts.setdefault(source(), place)
        whole = "\n".join(self._texts)
        known = [form for secret in self._secrets for form in _forms(secret) if form in whole]
        unknown = [found[0] for found in FORMS.finditer(whole)]
        return [self._first(secret) for secret in dict.fromkeys(known + unknown)][:MAX_FINDINGS]

    def _first(self, secret: str) -> str:
        text, place = next((text, place) for text, place in self._texts.items() if secret in text)
        at = text.index(secret)
        return f"{secret!r} in {place}: {text[max(0, at - 100) : at + 100]!r}"

    async def _read_status(self, call: grpc.aio.Call) -> None:
        if isinstance(call, grpc.aio.UnaryUnaryCall) and await call.code() is grpc.StatusCode.OK:
            self.add_secrets_of(await call)
        self.record("the message of a status", await call.details() or "")
        for name, value in await call.trailing_metadata() or ():
            text = value if isinstance(value, str) else value.decode(errors="replace")
            self.record("the trailing metadata of a call", f"{name}: {text}")


SUITE = Canaries()
"""The canaries of all tests that run in this process."""


class WatchedChannel:
    """A channel whose requests name secrets and whose statuses must hold none."""

    def __init__(self, channel: grpc.aio.Channel, canaries: Canaries) -> None:
        self._channel = channel
        self._canaries = canaries

    def __getattr__(self, name: str) -> Any:
        made = getattr(self._channel, name)
        if name in {"unary_unary", "unary_stream", "stream_unary", "stream_stream"}:
            return lambda *args, **named: self._watched(made(*args, **named))
        return made

    async def __aenter__(self) -> Self:
        await self._channel.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    def _watched(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def start(request: Any = None, **named: Any) -> Any:
            self._canaries.add_secrets_of(request)
            call = method(request, **named)
            call.add_done_callback(self._canaries.record_status)
            return call

        return start


def watch_channels(canaries: Canaries) -> None:
    """Watch every channel that any test opens."""
    insecure, secure = grpc.aio.insecure_channel, grpc.aio.secure_channel
    replaced: Any = grpc.aio
    replaced.insecure_channel = lambda *args, **named: WatchedChannel(
        insecure(*args, **named), canaries
    )
    replaced.secure_channel = lambda *args, **named: WatchedChannel(
        secure(*args, **named), canaries
    )


def watch_logs(canaries: Canaries) -> None:
    """Record log lines: ours at every level, those of libraries from warnings up."""
    structlog.configure(wrapper_class=watched_logger(canaries))
    logging.getLogger().addHandler(_Handler(canaries))


def watched_logger(canaries: Canaries) -> Any:
    """Return the class of a logger whose lines are recorded as the service would write them.

    It records before the processors, which tests replace to see the events themselves.
    """

    class Watched(structlog.make_filtering_bound_logger(logging.NOTSET)):  # type: ignore[misc]
        def _proxy_to_logger(self, method: str, event: Any = None, /, **named: Any) -> Any:
            entry = {**self._context, **named, "event": event}
            record = logging.makeLogRecord(
                {"msg": entry, "levelname": method, "_logger": None, "_name": method}
            )
            canaries.record("a log line", _FORMATTER.format(record))
            return super()._proxy_to_logger(method, event, **named)

    return Watched


class _Handler(logging.Handler):
    def __init__(self, canaries: Canaries) -> None:
        super().__init__(logging.WARNING)
        self._canaries = canaries

    def emit(self, record: logging.LogRecord) -> None:
        self._canaries.record("a log line of a library", _FORMATTER.format(record))


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
    """Return a secret as it is and as JSON writes it."""
    return {secret, json.dumps(secret)[1:-1]}
