"""Secret keys by id, which settings hold outside the database."""

import base64
import binascii
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import SecretStr

from tamatar_auth.config.errors import SettingsError

MIN_KEY_BYTES = 32
MAX_KEYS = 100

DEVELOPMENT_ID = "development"
"""The id of a published key, which no settings may use."""


class InvalidKeysError(SettingsError):
    """The keys of a setting are invalid; the message names the key and the fault."""


class KeyRing(dict[str, bytes]):
    """Keys by id. New values use the newest key, which is the last one."""

    @property
    def newest_id(self) -> str:
        """The id of the key for new values."""
        return next(reversed(self))

    @classmethod
    def read(cls, variable: str, keys: SecretStr | None, file: Path | None) -> Self:
        """Read the keys of a setting and of its file, or raise `InvalidKeysError`.

        `variable` names the setting, and with the ending `_FILE` the setting of the file.
        """
        ring = cls()
        for source, text in _sources(variable, keys, file):
            for key_id, key in _parse(source, text).items():
                if ring.setdefault(key_id, key) != key:
                    raise InvalidKeysError(
                        f"{variable} and {variable}_FILE: the key {key_id} differs between them"
                    )
        return ring

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self)})"


def _sources(variable: str, keys: SecretStr | None, file: Path | None) -> list[tuple[str, str]]:
    sources = []
    if file is not None:
        try:
            sources.append((f"{variable}_FILE", file.read_text()))
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidKeysError(
                f"{variable}_FILE: cannot be read ({type(error).__name__})"
            ) from None
    if keys is not None:
        sources.append((variable, keys.get_secret_value()))
    return sources


def _parse(source: str, text: str) -> Mapping[str, bytes]:
    """Parse `id:key` entries separated by white space; a key is base64 of 32 bytes or more."""
    keys: dict[str, bytes] = {}
    for number, entry in enumerate(text.split(), start=1):
        key_id, _, encoded = entry.partition(":")
        label = f"{source}: key {number}"
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", key_id) or key_id == DEVELOPMENT_ID:
            raise InvalidKeysError(
                f"{label} must have the form id:key, the id of letters and digits"
            )
        if key_id in keys:
            raise InvalidKeysError(f"{label} has the id of another key")
        keys[key_id] = _decode(label, encoded)
    if not 1 <= len(keys) <= MAX_KEYS:
        raise InvalidKeysError(f"{source}: must have 1 to {MAX_KEYS} keys")
    return keys


def _decode(label: str, encoded: str) -> bytes:
    try:
        key = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidKeysError(
            f"{label} must be base64, such as the output of `openssl rand -base64 32`"
        ) from None
    if len(key) < MIN_KEY_BYTES:
        raise InvalidKeysError(f"{label} must have {MIN_KEY_BYTES} bytes or more")
    return key
