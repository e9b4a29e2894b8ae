"""Peppers: the secret keys in password hashes, kept outside the database."""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Self

from tamatar_auth.config.errors import SettingsError
from tamatar_auth.config.passwords import PasswordSettings

MIN_KEY_BYTES = 32
MAX_KEYS = 100

_DEVELOPMENT_ID = "development"
_DEVELOPMENT_KEY = b"not a secret: for development"


class PepperError(SettingsError):
    """The password keys are invalid; the message names the key and the fault."""


class Peppers(dict[str, bytes]):
    """Keys by id. New hashes use the newest key, which is the last one."""

    @property
    def newest_id(self) -> str:
        """The id of the key for new hashes."""
        return next(reversed(self))

    @classmethod
    def load(cls, settings: PasswordSettings) -> Self:
        """Read the keys that the settings name, or raise `PepperError`.

        Without any, development has a published key. Production requires keys.
        """
        keys: dict[str, bytes] = {}
        for source, text in _key_sources(settings):
            for key_id, key in _parse_keys(source, text).items():
                if keys.setdefault(key_id, key) != key:
                    raise PepperError(
                        "TAMATAR_PASSWORD_KEYS and TAMATAR_PASSWORD_KEYS_FILE:"
                        f" the key {key_id} differs between them"
                    )
        return cls(keys or {_DEVELOPMENT_ID: _DEVELOPMENT_KEY})

    def __repr__(self) -> str:
        return f"Peppers({', '.join(self)})"


def _key_sources(settings: PasswordSettings) -> list[tuple[str, str]]:
    sources = []
    if settings.keys_file is not None:
        try:
            text = settings.keys_file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise PepperError(
                f"TAMATAR_PASSWORD_KEYS_FILE: cannot be read ({type(error).__name__})"
            ) from None
        sources.append(("TAMATAR_PASSWORD_KEYS_FILE", text))
    if settings.keys is not None:
        sources.append(("TAMATAR_PASSWORD_KEYS", settings.keys.get_secret_value()))
    return sources


def _parse_keys(source: str, text: str) -> Mapping[str, bytes]:
    """Parse `id:key` entries separated by white space; a key is base64 of 32 bytes or more."""
    keys: dict[str, bytes] = {}
    for number, entry in enumerate(text.split(), start=1):
        key_id, _, encoded = entry.partition(":")
        label = f"{source}: key {number}"
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", key_id) or key_id == _DEVELOPMENT_ID:
            raise PepperError(f"{label} must have the form id:key, the id of letters and digits")
        if key_id in keys:
            raise PepperError(f"{label} has the id of another key")
        keys[key_id] = _decode_key(label, encoded)
    if not 1 <= len(keys) <= MAX_KEYS:
        raise PepperError(f"{source}: must have 1 to {MAX_KEYS} keys")
    return keys


def _decode_key(label: str, encoded: str) -> bytes:
    try:
        key = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise PepperError(
            f"{label} must be base64, such as the output of `openssl rand -base64 32`"
        ) from None
    if len(key) < MIN_KEY_BYTES:
        raise PepperError(f"{label} must have {MIN_KEY_BYTES} bytes or more")
    return key
