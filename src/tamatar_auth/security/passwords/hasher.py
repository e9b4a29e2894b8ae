"""Passwords: a keyed hash under bcrypt, off the event loop.

bcrypt reads 72 bytes and stops at a NUL. What it gets here is the HMAC-SHA384 of the password
under a key that is not in the database: 64 letters, whatever the password is. A stolen table
is useless without the key. A stored hash says how it was made:

    $hmac-sha384$<key id>$2b$12$…    by this service, with the key of that id
    $2b$12$…                         by another program; replaced at the next sign-in

A hash takes about a quarter of a second of a core at cost 12. It runs on a thread, where
bcrypt releases the interpreter's lock, never while a connection is held, and only for who has
a turn: see `turns`.
"""

import base64
import contextlib
import hmac
import os
import re
import sys
import unicodedata
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Self

import bcrypt
import structlog
from opentelemetry.metrics import Meter

from tamatar_auth.config.settings import Settings
from tamatar_auth.security.passwords.hash_queue import HashPermit, HashQueue
from tamatar_auth.security.passwords.metrics import hash_recorder, observe_permits
from tamatar_auth.security.passwords.peppers import Peppers

_PEPPERED_PREFIX = "$hmac-sha384$"
_BCRYPT_BYTES = 72
_QUEUE_PER_THREAD = 16

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, repr=False)
class StoredHash:
    """A hash as it is stored: `key_id` is None where no key of ours is in it."""

    key_id: str | None
    bcrypt: str
    cost: int

    # A cost beyond 16 would hold a thread for seconds and more, so it counts as no hash.
    _pattern = re.compile(
        r"(?:\$hmac-sha384\$(?P<key>[A-Za-z0-9_-]{1,32}))?"
        r"(?P<bcrypt>\$2[aby]\$(?P<cost>0[4-9]|1[0-6])\$[./A-Za-z0-9]{53})"
    )

    @classmethod
    def read(cls, text: str | None) -> Self | None:
        """Read a stored hash; None where there is none, or none that can be read."""
        match = cls._pattern.fullmatch(text or "")
        return cls(match["key"], match["bcrypt"], int(match["cost"])) if match else None

    def __str__(self) -> str:
        return f"{_PEPPERED_PREFIX}{self.key_id}{self.bcrypt}" if self.key_id else self.bcrypt


class PasswordHasher:
    """Hashes and checks passwords, for those who have a turn."""

    def __init__(self, schemes: "PasswordSchemes", hash_queue: HashQueue) -> None:
        self._schemes = schemes
        self.hash_queue = hash_queue

    @classmethod
    def of(cls, settings: Settings, meter: Meter | None = None) -> Self:
        """Hash as the settings say, or raise `PepperError`."""
        schemes = PasswordSchemes(settings.bcrypt_cost, Peppers.of(settings))
        threads = settings.hash_threads or max(1, _available_cores() - 1)
        queue = settings.hash_queue
        hash_queue = HashQueue(
            threads,
            _QUEUE_PER_THREAD * threads if queue is None else queue,
            observe=None if meter is None else hash_recorder(meter),
        )
        if meter is not None:
            observe_permits(hash_queue, meter)
        return cls(schemes, hash_queue)

    def permit(self) -> AbstractAsyncContextManager["PasswordPermit"]:
        """Give a turn at once, for as long as the block, or raise `ServerBusy`."""
        return self._with_schemes(self.hash_queue.permit())

    def wait_for_permit(self) -> AbstractAsyncContextManager["PasswordPermit"]:
        """Give a turn for as long as the block, as soon as there is one."""
        return self._with_schemes(self.hash_queue.wait_for_permit())

    async def close(self) -> None:
        """Wait for the hashes that run, and end their threads."""
        await self.hash_queue.close()

    @contextlib.asynccontextmanager
    async def _with_schemes(
        self, acquired: AbstractAsyncContextManager[HashPermit]
    ) -> AsyncIterator["PasswordPermit"]:
        async with acquired as permit:
            yield PasswordPermit(self._schemes, permit)


class PasswordPermit:
    """A turn in which passwords are hashed and checked, one after the other."""

    def __init__(self, schemes: "PasswordSchemes", permit: HashPermit) -> None:
        self._schemes = schemes
        self._permit = permit

    @property
    def was_dropped(self) -> bool:
        """Whether the latest hash was cancelled before it began."""
        return self._permit.was_dropped

    async def hash(self, password: str) -> str:
        """Hash a password with the newest key."""
        return await self._permit.run(partial(self._schemes.hash, password))

    async def matches(self, password: str, password_hash: str | None) -> bool:
        """Tell whether the password is the one of the hash.

        It takes as long without a hash, or with one that cannot be read.
        """
        stored = StoredHash.read(password_hash)
        return await self._permit.run(partial(self._schemes.matches, password, stored))

    def is_outdated(self, password_hash: str | None) -> bool:
        """Tell whether a hash was made with another scheme, key or cost than new ones are."""
        return self._schemes.is_outdated(StoredHash.read(password_hash))


class PasswordSchemes:
    """How passwords are hashed: at one cost and with the newest key. It blocks."""

    def __init__(self, cost: int, peppers: Peppers) -> None:
        self._cost = cost
        self._peppers = peppers
        # A well-formed hash that no password has: all that costs time in it is the cost.
        salt = bcrypt.gensalt(cost).decode()
        self._dummy_hash = StoredHash(peppers.newest_id, salt + "." * 31, cost)

    def is_outdated(self, stored: StoredHash | None) -> bool:
        """Tell whether a hash was made with another scheme, key or cost than new ones are."""
        return stored is None or (stored.key_id, stored.cost) != (
            self._peppers.newest_id,
            self._cost,
        )

    def hash(self, password: str) -> str:
        """Hash a password with the newest key."""
        salt = bcrypt.gensalt(self._cost)
        key_id = self._peppers.newest_id
        hashed = bcrypt.hashpw(self._peppered(password, key_id), salt).decode()
        return str(StoredHash(key_id, hashed, self._cost))

    def matches(self, password: str, stored: StoredHash | None) -> bool:
        """Tell whether the password is the one of the hash; as slowly where there is none."""
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
            # Other programs cut what bcrypt does not read, or let it do so.
            key_material = normalize_password(password).encode()[:_BCRYPT_BYTES]
        try:
            return bcrypt.checkpw(key_material, stored.bcrypt.encode())
        except ValueError:  # a salt that cannot be
            return False

    def _equalize_time(self, effective: StoredHash) -> None:
        # A cheaper hash would tell by its time that the user exists. Once at each cost from
        # its own up to ours adds up to one check at ours: 2^c + 2^c + 2^(c+1) + … = 2^ours.
        for cost in range(effective.cost, self._cost):
            bcrypt.checkpw(b"", bcrypt.gensalt(cost) + b"." * 31)

    def _peppered(self, password: str, key_id: str) -> bytes:
        encoded = normalize_password(password).encode()
        return base64.b64encode(hmac.digest(self._peppers[key_id], encoded, "sha384"))


def _available_cores() -> int:
    """Count the cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def normalize_password(password: str) -> str:
    """Give the one form in which a password is hashed: NFC (NIST SP 800-63B-4, 3.1.1.2)."""
    return unicodedata.normalize("NFC", password)
