"""Passwords: bcrypt, off the event loop.

A hash takes about a quarter of a second of a core at cost 12. It runs on a thread, where
bcrypt releases the interpreter's lock, and never while a connection is held.
"""

import asyncio
import re
from functools import cached_property

import bcrypt

from tamatar_auth.errors import InvalidCredentials, InvalidFields

MAX_BYTES = 72
"""bcrypt reads no more, so a longer password is refused and not cut."""

# A cost beyond 16 would hold a thread for seconds and more, so it counts as no hash.
_BCRYPT = re.compile(r"\$2[aby]\$(0[4-9]|1[0-6])\$[./A-Za-z0-9]{53}")


class Passwords:
    """Hashes and checks passwords at one cost."""

    def __init__(self, cost: int) -> None:
        self._cost = cost

    async def hash(self, password: str) -> str:
        """Hash a password, or raise `InvalidFields` when it is longer than bcrypt reads."""
        return await asyncio.to_thread(self._hash, _encoded(password))

    async def verify(self, password: str, password_hash: str | None) -> None:
        """Raise `InvalidCredentials` unless the password is the one of the hash.

        Without a hash, or with one that is none, the answer is the same and takes as long.
        """
        if not await self.matches(password, password_hash):
            raise InvalidCredentials

    async def matches(self, password: str, password_hash: str | None) -> bool:
        """Tell whether the password is the one of the hash."""
        known = password_hash is not None and _BCRYPT.fullmatch(password_hash) is not None
        stored = password_hash if known and password_hash else self._nobodys
        same = await asyncio.to_thread(bcrypt.checkpw, _encoded(password), stored.encode())
        return same and known

    def _hash(self, password: bytes) -> str:
        return bcrypt.hashpw(password, bcrypt.gensalt(self._cost)).decode()

    @cached_property
    def _nobodys(self) -> str:
        """A well-formed hash that no password has: all that costs time in it is the cost."""
        return bcrypt.gensalt(self._cost).decode() + "." * 31


def _encoded(password: str) -> bytes:
    encoded = password.encode()
    if len(encoded) > MAX_BYTES:
        raise InvalidFields.field("password", f"must have at most {MAX_BYTES} bytes")
    return encoded
