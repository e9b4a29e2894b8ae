"""Tokens: 256 random bits, shown once. The database stores their digests only."""

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from typing import Self

SESSION_TOKEN_PREFIX = "tms_"  # noqa: S105 - no password
USER_TOKEN_PREFIX = "tmu_"  # noqa: S105 - a prefix
"""The prefixes let scanners of logs and repositories recognise a leaked token."""

_TOKEN_BYTES = 32


def token_digest(token: str) -> bytes:
    """Return the SHA-256 of a token: 32 bytes.

    A fast hash is enough, because 256 random bits cannot be guessed.
    """
    return hashlib.sha256(token.encode()).digest()


@dataclass(frozen=True, slots=True)
class Token:
    """A new token. Only its digest is kept."""

    text: str = field(repr=False)

    @property
    def digest(self) -> bytes:
        """The digest that is stored."""
        return token_digest(self.text)


class SessionToken(Token):
    """The token of a session."""

    __slots__ = ()

    @classmethod
    def issue(cls) -> Self:
        """Return a new random token."""
        return cls(SESSION_TOKEN_PREFIX + secrets.token_urlsafe(_TOKEN_BYTES))

    def successor(self, nonce: bytes) -> Self:
        """Return the token that follows this one: its HMAC of the nonce.

        The session keeps the nonce, so clients that refresh one token at the same time get the
        same successor. The nonce alone is useless, because the token is the key.
        """
        mac = hmac.digest(self.text.encode(), nonce, "sha256")
        return type(self)(SESSION_TOKEN_PREFIX + base64.urlsafe_b64encode(mac).decode().rstrip("="))


class UserToken(Token):
    """A one-time token of a user."""

    __slots__ = ()

    @classmethod
    def issue(cls) -> Self:
        """Return a new random token."""
        return cls(USER_TOKEN_PREFIX + secrets.token_urlsafe(_TOKEN_BYTES))


def rotation_nonce() -> bytes:
    """Return a random nonce for a successor: 32 bytes."""
    return secrets.token_bytes(_TOKEN_BYTES)
