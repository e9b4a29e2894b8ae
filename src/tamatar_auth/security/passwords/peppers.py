"""Peppers: the secret keys in password hashes, kept outside the database."""

from typing import Self

from tamatar_auth.config.passwords import PasswordSettings
from tamatar_auth.security.key_ring import DEVELOPMENT_ID, KeyRing

_DEVELOPMENT_KEY = b"not a secret: for development"


class Peppers(KeyRing):
    """Keys by id. New hashes use the newest key, which is the last one."""

    @classmethod
    def load(cls, settings: PasswordSettings) -> Self:
        """Read the keys that the settings name, or raise `InvalidKeysError`.

        Without any, development has a published key. Production requires keys.
        """
        keys = cls.read("TAMATAR_PASSWORD_KEYS", settings.keys, settings.keys_file)
        return keys or cls({DEVELOPMENT_ID: _DEVELOPMENT_KEY})
