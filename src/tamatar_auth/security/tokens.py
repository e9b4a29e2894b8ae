"""Tokens: 256 random bits, shown once. Only their digests are stored."""

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from typing import ClassVar, Self

TOKEN_BYTES = 32


def token_digest(token: str) -> bytes:
    """Return the SHA-256 of a token: 32 bytes.

    A fast hash is enough, because 256 random bits cannot be guessed.
    """
    return hashlib.sha256(token.encode()).digest()


@dataclass(frozen=True, slots=True)
class Token:
    """A new token. Only its digest is kept."""

    text: str = field(repr=False)

    PREFIX: ClassVar[str]
    """Lets scanners of logs and repositories recognise a leaked token."""

    @classmethod
    def issue(cls) -> Self:
        """Return a new random token."""
        return cls(cls.PREFIX + secrets.token_urlsafe(TOKEN_BYTES))

    @property
    def digest(self) -> bytes:
        """The digest that is stored."""
        return token_digest(self.text)


class SessionToken(Token):
    """The token of a session."""

    PREFIX = "tms_"

    def successor(self, nonce: bytes) -> Self:
        """Return the token that follows this one: its HMAC of the nonce.

        The session keeps the nonce, so clients that refresh one token at the same time get the
        same successor. The nonce alone is useless, because the token is the key.
        """
        mac = hmac.digest(self.text.encode(), nonce, "sha256")
        return type(self)(self.PREFIX + base64.urlsafe_b64encode(mac).decode().rstrip("="))


class UserToken(Token):
    """A one-time token of a user."""

    PREFIX = "tmu_"
