"""Tokens: 256 random bits, shown once. Only their digests are stored."""

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from struct import Struct
from typing import ClassVar, Self
from uuid import UUID

TOKEN_BYTES = 32

FIRST_DAY = datetime(2000, 1, 1, tzinfo=UTC)
"""The start of the count of days in session tokens. The count ends in the year 2179."""

NO_DAY = 0
"""The day of a malformed token: no session expires then."""

_VERSION = 1
_HEADER = Struct("!BH2s")
"""The version, the day and the user of a session token."""

_HEADER_LETTERS = 8
_VERSION_AND_DAY = Struct("!BH")
_DAY_LETTERS = 4


def token_digest(token: str) -> bytes:
    """Return the SHA-256 of a token: 32 bytes.

    A fast hash is enough, because 256 random bits cannot be guessed.
    """
    return hashlib.sha256(token.encode()).digest()


@dataclass(frozen=True, slots=True)
class Token:
    """A token. Only its digest is kept."""

    text: str = field(repr=False)

    PREFIX: ClassVar[str]
    """Lets scanners of logs and repositories recognise a leaked token."""

    @property
    def digest(self) -> bytes:
        """The digest that is stored."""
        return token_digest(self.text)

    @classmethod
    def _encode(cls, content: bytes) -> Self:
        return cls(cls.PREFIX + base64.urlsafe_b64encode(content).decode().rstrip("="))


class RandomToken(Token):
    """A token of random bits alone."""

    @classmethod
    def issue(cls) -> Self:
        """Return a new token."""
        return cls._encode(secrets.token_bytes(TOKEN_BYTES))


class UserToken(RandomToken):
    """A one-time token of a user."""

    PREFIX = "tmu_"


class ChallengeToken(RandomToken):
    """The token of a challenge."""

    PREFIX = "tmh_"

    @property
    def webauthn_challenge(self) -> bytes:
        """The bytes that a passkey signs. They reveal nothing of the token, and are not stored."""
        return hmac.digest(self.text.encode(), b"webauthn", "sha256")


class SessionToken(Token):
    """The token of a session.

    A header is before the random bits: a version, the day in which the session expires, and 16
    bits of a hash of the user's id. So a lookup reads one partition of the sessions. The digest
    covers the header: a token with another day is unknown. The former format has no header.
    """

    PREFIX = "tms_"

    @classmethod
    def issue(cls, user_id: UUID, expires_at: datetime) -> Self:
        """Return a new token for a session of a user."""
        end_of_day = (expires_at - FIRST_DAY) // timedelta(days=1) + 1
        user = hashlib.sha256(user_id.bytes).digest()[:2]
        header = _HEADER.pack(_VERSION, end_of_day, user)
        return cls._encode(header + secrets.token_bytes(TOKEN_BYTES))

    @property
    def day(self) -> int | None:
        """The day in which the session expires, as `session_day` returns it."""
        return session_day(self.text)

    def successor(self, nonce: bytes) -> Self:
        """Return the token that follows this one: its header, and its HMAC of the nonce.

        The session keeps the nonce, so clients that refresh one token at the same time get the
        same successor. The nonce alone is useless, because the token is the key.
        """
        header = b""
        if self.day:
            header = _decode(self.text[_START : _START + _HEADER_LETTERS])[: _HEADER.size]
        return self._encode(header + self._mac(nonce))

    def stored_successor(self, nonce: bytes, digest: bytes) -> Self:
        """Return the token that follows this one and has a digest.

        A server of the release before gives no header to it.
        """
        former = self._encode(self._mac(nonce))
        return former if former.digest == digest else self.successor(nonce)

    def _mac(self, nonce: bytes) -> bytes:
        return hmac.digest(self.text.encode(), nonce, "sha256")


def session_day(token: str) -> int | None:
    """Return the days from `FIRST_DAY` to the end (UTC) of the day in which a session expires.

    Return None for a token of the former format, whose session may expire at any time, and
    `NO_DAY` for a malformed token.
    """
    if len(token) == _LENGTH:
        return _read_day(token[_START : _START + _DAY_LETTERS])
    return None if len(token) == _FORMER_LENGTH else NO_DAY


_START = len(SessionToken.PREFIX)
_LENGTH, _FORMER_LENGTH = (
    len(SessionToken._encode(bytes(size)).text)  # noqa: SLF001 - of this module
    for size in (_HEADER.size + TOKEN_BYTES, TOKEN_BYTES)
)


@lru_cache(maxsize=1024)
def _read_day(letters: str) -> int:
    content = _decode(letters)
    if len(content) != _VERSION_AND_DAY.size:
        return NO_DAY
    version, day = _VERSION_AND_DAY.unpack(content)
    return day if version == _VERSION else NO_DAY


def _decode(letters: str) -> bytes:
    """Return the bytes that letters encode, or none if they are malformed."""
    try:
        return base64.b64decode(letters.encode(), altchars=b"-_", validate=True)
    except ValueError:
        return b""
