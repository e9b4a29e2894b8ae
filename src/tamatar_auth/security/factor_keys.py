"""Factor keys: what encrypts secrets of authenticator apps and digests recovery codes.

A key of the settings is never used itself. One key for each use is derived from it (HKDF), so a
value of one use means nothing in another.
"""

import hmac
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self
from uuid import UUID

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tamatar_auth.config.factors import FactorSettings
from tamatar_auth.errors.factors import FactorsNotConfigured
from tamatar_auth.security.key_ring import DEVELOPMENT_ID, KeyRing

SETTING = "TAMATAR_FACTOR_KEYS"

_DEVELOPMENT_KEY = b"not a secret: for development"
_NONCE_BYTES = 12
_KEY_BYTES = 32

MADE_UP_IDS = 4
"""The ids that are made up for an address. Few users have more passkeys."""

_ID_LENGTHS = (16, 20, 32, 32)
_MARK_BYTES = 12

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, repr=False)
class EncryptedSecret:
    """The secret of an authenticator app as it is stored: its key, and nonce and ciphertext."""

    key_id: str
    content: bytes


class FactorKeys:
    """The keys of a server by id. New values use the newest key."""

    def __init__(self, ring: KeyRing) -> None:
        self._keys = {key_id: _DerivedKeys.of(key) for key_id, key in ring.items()}
        self._newest_id = ring.newest_id if ring else None

    @classmethod
    def load(cls, settings: FactorSettings, *, in_development: bool) -> Self:
        """Read the keys that the settings name, or raise `InvalidKeysError`.

        Without any, development has a published key, and production has none.
        """
        ring = KeyRing.read(SETTING, settings.keys, settings.keys_file)
        if not ring and in_development:
            ring = KeyRing({DEVELOPMENT_ID: _DEVELOPMENT_KEY})
        return cls(ring)

    def __bool__(self) -> bool:
        """Whether there is a key."""
        return self._newest_id is not None

    @property
    def newest_id(self) -> str:
        """The id of the key for new values. Raise `FactorsNotConfigured` if there is none."""
        if self._newest_id is None:
            raise FactorsNotConfigured([SETTING])
        return self._newest_id

    def encrypt(self, factor_id: UUID, secret: bytes) -> EncryptedSecret:
        """Encrypt the secret of a factor with the newest key."""
        key_id, nonce = self.newest_id, os.urandom(_NONCE_BYTES)
        cipher = AESGCM(self._keys[key_id].secrets)
        return EncryptedSecret(key_id, nonce + cipher.encrypt(nonce, secret, _bound_to(factor_id)))

    def decrypt(self, factor_id: UUID, encrypted: EncryptedSecret) -> bytes | None:
        """Return the secret of a factor, or None if its key is missing or it was altered.

        The secret of another factor counts as altered.
        """
        keys = self._find(encrypted.key_id)
        if keys is None:
            return None
        nonce, content = encrypted.content[:_NONCE_BYTES], encrypted.content[_NONCE_BYTES:]
        try:
            return AESGCM(keys.secrets).decrypt(nonce, content, _bound_to(factor_id))
        except (InvalidTag, ValueError) as error:
            name = type(error).__name__
            log.error("factor secret is unreadable", factor_id=str(factor_id), error=name)  # noqa: TRY400
            return None

    def digest_codes(self, factor_id: UUID, codes: Sequence[str]) -> tuple[str, Sequence[bytes]]:
        """Digest new recovery codes with the newest key. Return its id, and the digests."""
        key_id = self.newest_id
        key = self._keys[key_id].codes
        return key_id, [_code_digest(key, factor_id, code) for code in codes]

    def code_digest(self, key_id: str, factor_id: UUID, code: str) -> bytes | None:
        """Return the digest of a recovery code, or None if its key is missing."""
        keys = self._find(key_id)
        if keys is None:
            return None
        return _code_digest(keys.codes, factor_id, code)

    def made_up_credential_ids(self, email: str) -> Sequence[bytes]:
        """Return ids of passkeys that no user has: always the same ones for an address.

        The key is the one with the smallest id, not the newest one. If a new key changed these
        ids, an answer from before its rotation would reveal the real ones, which stay.

        They have the lengths of common authenticators. Each begins with a number that the address
        determines, and ends with a digest of that number, by which `is_made_up` knows it again.
        """
        if not self._keys:
            raise FactorsNotConfigured([SETTING])
        key = self._keys[min(self._keys)].credentials
        found = []
        for position in range(MADE_UP_IDS):
            number = hmac.digest(key, b"%d %s" % (position, email.encode()), "sha256")
            length = _ID_LENGTHS[number[-1] % len(_ID_LENGTHS)]
            start = number[: length - _MARK_BYTES]
            found.append(start + _mark(key, start))
        return found

    def is_made_up(self, credential_id: bytes) -> bool:
        """Return whether an id was made up by one of the keys."""
        start, mark = credential_id[:-_MARK_BYTES], credential_id[-_MARK_BYTES:]
        marks = [_mark(keys.credentials, start) for keys in self._keys.values()]
        return any(hmac.compare_digest(mark, each) for each in marks)

    def _find(self, key_id: str) -> "_DerivedKeys | None":
        keys = self._keys.get(key_id)
        if keys is None:
            log.error("factor key is missing", key_id=key_id)
        return keys

    def __repr__(self) -> str:
        return f"FactorKeys({', '.join(self._keys)})"


@dataclass(frozen=True, slots=True, repr=False)
class _DerivedKeys:
    secrets: bytes
    codes: bytes
    credentials: bytes

    @classmethod
    def of(cls, key: bytes) -> Self:
        uses = (b"totp secrets", b"recovery codes", b"made-up credential ids")
        return cls(*(_derive(key, use) for use in uses))


def _mark(key: bytes, start: bytes) -> bytes:
    return hmac.digest(key, b"made up: " + start, "sha256")[:_MARK_BYTES]


def _bound_to(factor_id: UUID) -> bytes:
    """Return the associated data of a secret: moved to another factor, it does not decrypt."""
    return factor_id.bytes


def _code_digest(key: bytes, factor_id: UUID, code: str) -> bytes:
    return hmac.digest(key, factor_id.bytes + code.encode(), "sha256")


def _derive(key: bytes, use: bytes) -> bytes:
    info = b"tamatar-auth factors: " + use
    return HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=info).derive(key)
