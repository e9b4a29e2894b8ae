"""Password hashing: bcrypt over a keyed hash, off the event loop.

bcrypt reads at most 72 bytes and stops at a NUL. Its input here is the HMAC-SHA384 of the
password: 64 letters in base64, for any password. The key is not in the database, so a stolen
table is useless without it. The prefix of a stored hash names its scheme:

    $hmac-sha384$<key id>$2b$12$…    this service, with the key of that id
    $2b$12$…                         another program; replaced at the next sign-in

A hash takes about a quarter of a second of a core at cost 12. It needs a permit (`hash_queue`)
and runs on a thread, where bcrypt releases the GIL. No connection is held during it.
"""

import base64
import contextlib
import hmac
import os
import re
import sys
import unicodedata
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Self

import bcrypt
import structlog
from opentelemetry.metrics import Meter

from tamatar_auth.config.passwords import PasswordSettings
from tamatar_auth.security.passwords.hash_queue import (
    HashPermit,
    HashQueue,
    hash_recorder,
    observe_permits,
)
from tamatar_auth.security.passwords.peppers import Peppers

_PEPPERED_PREFIX = "$hmac-sha384$"
_BCRYPT_BYTES = 72
_QUEUE_PER_THREAD = 16

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, repr=False)
class StoredHash:
    """A parsed hash; `key_id` is None if another program made it."""

    key_id: str | None
    bcrypt: str
    cost: int

    # A cost above 16 would occupy a thread for seconds, so such a hash is treated as unreadable.
    _pattern = re.compile(
        r"(?:\$hmac-sha384\$(?P<key>[A-Za-z0-9_-]{1,32}))?"
        r"(?P<bcrypt>\$2[aby]\$(?P<cost>0[4-9]|1[0-6])\$[./A-Za-z0-9]{53})"
    )

    @classmethod
    def read(cls, text: str | None) -> Self | None:
        """Parse a stored hash; return None if there is none or it is unreadable."""
        match = cls._pattern.fullmatch(text or "")
        return cls(match["key"], match["bcrypt"], int(match["cost"])) if match else None

    def __str__(self) -> str:
        return f"{_PEPPERED_PREFIX}{self.key_id}{self.bcrypt}" if self.key_id else self.bcrypt


class PasswordHasher:
    """Hands out permits to hash and check passwords."""

    def __init__(self, schemes: "PasswordSchemes", hash_queue: HashQueue) -> None:
        self._schemes = schemes
        self.hash_queue = hash_queue

    @classmethod
    def create(cls, settings: PasswordSettings, meter: Meter | None = None) -> Self:
        """Create a hasher with its keys and threads, or raise `InvalidKeysError`."""
        schemes = PasswordSchemes(settings.bcrypt_cost, Peppers.load(settings))
        on_linux = sys.platform == "linux"
        cores = len(os.sched_getaffinity(0)) if on_linux else os.cpu_count() or 1
        threads = settings.hash_threads or max(1, cores - 1)
        queue = settings.hash_queue
        hash_queue = HashQueue(
            threads,
            _QUEUE_PER_THREAD * threads if queue is None else queue,
            observe=None if meter is None else hash_recorder(meter),
        )
        if meter is not None:
            observe_permits(hash_queue, meter)
        return cls(schemes, hash_queue)

    @contextlib.asynccontextmanager
    async def permit(self, *, wait: bool = False) -> AsyncIterator["PasswordPermit"]:
        """Hold a permit during the block. If none is free, wait or raise `ServerBusy`."""
        async with self.hash_queue.permit(wait=wait) as permit:
            yield PasswordPermit(self._schemes, permit)

    async def close(self) -> None:
        """Wait for the running hashes and stop their threads."""
        await self.hash_queue.close()


class PasswordPermit:
    """A permit to hash and check passwords, one at a time."""

    def __init__(self, schemes: "PasswordSchemes", permit: HashPermit) -> None:
        self._schemes = schemes
        self._permit = permit

    def drop(self) -> None:
        """Cancel the latest hash if it has not started."""
        self._permit.drop()

    async def hash(self, password: str) -> str:
        """Hash a password with the newest key."""
        return await self._permit.run(partial(self._schemes.hash, password))

    async def matches(self, password: str, password_hash: str | None) -> bool:
        """Return whether the password matches the hash.

        A missing or unreadable hash takes the same time.
        """
        stored = StoredHash.read(password_hash)
        return await self._permit.run(partial(self._schemes.matches, password, stored))

    def is_outdated(self, password_hash: str | None) -> bool:
        """Return whether the scheme, key or cost of a hash differs from that of new ones."""
        return self._schemes.is_outdated(StoredHash.read(password_hash))


class PasswordSchemes:
    """Hashes at one cost with the newest key. Its methods block."""

    def __init__(self, cost: int, peppers: Peppers) -> None:
        self._cost = cost
        self._peppers = peppers
        # A well-formed hash that matches no password and takes the same time to check.
        salt = bcrypt.gensalt(cost).decode()
        self._dummy_hash = StoredHash(peppers.newest_id, salt + "." * 31, cost)

    def is_outdated(self, stored: StoredHash | None) -> bool:
        """Return whether the scheme, key or cost of a hash differs from that of new ones."""
        newest = (self._peppers.newest_id, self._cost)
        return stored is None or (stored.key_id, stored.cost) != newest

    def hash(self, password: str) -> str:
        """Hash a password with the newest key."""
        salt = bcrypt.gensalt(self._cost)
        key_id = self._peppers.newest_id
        hashed = bcrypt.hashpw(self._peppered(password, key_id), salt).decode()
        return str(StoredHash(key_id, hashed, self._cost))

    def matches(self, password: str, stored: StoredHash | None) -> bool:
        """Return whether the password matches; a missing hash takes the same time."""
        has_key = stored is not None and (stored.key_id is None or stored.key_id in self._peppers)
        if stored is not None and not has_key:
            log.error("password key is missing", key_id=stored.key_id)
        effective = stored if stored is not None and has_key else self._dummy_hash
        is_match = self._check(password, effective) and has_key
        if not is_match:
            self._equalize_time(effective)
        return is_match

    def _check(self, password: str, stored: StoredHash) -> bool:
        if stored.key_id is not None:
            key_material = self._peppered(password, stored.key_id)
        else:
            # Other programs truncate the password to what bcrypt reads, or let bcrypt do it.
            key_material = normalize_password(password).encode()[:_BCRYPT_BYTES]
        try:
            return bcrypt.checkpw(key_material, stored.bcrypt.encode())
        except ValueError:  # an invalid salt
            return False

    def _equalize_time(self, effective: StoredHash) -> None:
        # A cheaper hash would reveal by its time that the user exists. One check at each cost
        # from its own up to ours adds up to one at ours: 2^c + 2^c + 2^(c+1) + … = 2^ours.
        for cost in range(effective.cost, self._cost):
            bcrypt.checkpw(b"", bcrypt.gensalt(cost) + b"." * 31)

    def _peppered(self, password: str, key_id: str) -> bytes:
        encoded = normalize_password(password).encode()
        return base64.b64encode(hmac.digest(self._peppers[key_id], encoded, "sha384"))


def normalize_password(password: str) -> str:
    """Return the form in which a password is hashed: NFC (NIST SP 800-63B-4, 3.1.1.2)."""
    return unicodedata.normalize("NFC", password)
