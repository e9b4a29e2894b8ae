"""Session tokens: 256 random bits, shown once; the database keeps their digest."""

import hashlib
import secrets
from dataclasses import dataclass, field
from typing import Self

PREFIX = "tms_"
"""Makes a leaked token recognisable to scanners of logs and repositories."""

_BYTES = 32


def token_digest(token: str) -> bytes:
    """Give the SHA-256 that stands for a token: 32 bytes.

    A fast hash is enough: nobody guesses 256 random bits.
    """
    return hashlib.sha256(token.encode()).digest()


@dataclass(frozen=True, slots=True)
class SessionToken:
    """A token at the one moment it is known."""

    text: str = field(repr=False)

    @classmethod
    def issue(cls) -> Self:
        """Draw a new token."""
        return cls(PREFIX + secrets.token_urlsafe(_BYTES))

    @property
    def digest(self) -> bytes:
        """What is stored of it."""
        return token_digest(self.text)
