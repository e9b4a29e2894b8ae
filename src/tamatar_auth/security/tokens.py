"""Tokens: 256 random bits, shown once; the database keeps their digest."""

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from typing import Self

SESSION_TOKEN_PREFIX = "tms_"  # noqa: S105 - no password
USER_TOKEN_PREFIX = "tmu_"  # noqa: S105 - a prefix
"""The prefixes make a leaked token recognisable to scanners of logs and repositories."""

_TOKEN_BYTES = 32


def token_digest(token: str) -> bytes:
    """Give the SHA-256 that stands for a token: 32 bytes.

    A fast hash is enough: nobody guesses 256 random bits.
    """
    return hashlib.sha256(token.encode()).digest()


@dataclass(frozen=True, slots=True)
class Token:
    """A token at the one moment it is known."""

    text: str = field(repr=False)

    @property
    def digest(self) -> bytes:
        """What is stored of it."""
        return token_digest(self.text)


class SessionToken(Token):
    """The secret of a session."""

    __slots__ = ()

    @classmethod
    def issue(cls) -> Self:
        """Draw a new token."""
        return cls(SESSION_TOKEN_PREFIX + secrets.token_urlsafe(_TOKEN_BYTES))

    def successor(self, nonce: bytes) -> Self:
        """Make the token that follows this one.

        The nonce is kept with the session, so that clients which refresh one token at the
        same time get the same successor. Whoever reads the nonce but not the token can make
        nothing of it: the token is the key.
        """
        mac = hmac.digest(self.text.encode(), nonce, "sha256")
        return type(self)(SESSION_TOKEN_PREFIX + base64.urlsafe_b64encode(mac).decode().rstrip("="))


class UserToken(Token):
    """A one-time secret of a user."""

    __slots__ = ()

    @classmethod
    def issue(cls) -> Self:
        """Draw a new token."""
        return cls(USER_TOKEN_PREFIX + secrets.token_urlsafe(_TOKEN_BYTES))


def rotation_nonce() -> bytes:
    """Draw what a successor is made with: 32 bytes."""
    return secrets.token_bytes(_TOKEN_BYTES)
