"""The normal form of addresses and usernames, and the rule for passwords.

The real service parses addresses by RFC 5322 and 6531, and refuses passwords that are common or
predictable. The fake checks the form of an address roughly, and only the length of a password.
"""

import re
import unicodedata

from tamatar_auth.client.testing.errors import invalid_field

MIN_PASSWORD_LENGTH = 12
"""Code points of the shortest password by the default settings of the real service."""

_MAX_ADDRESS, _MAX_LOCAL_PART = 254, 64
_WORD = r"[\w!#$%&'*+/=?^`{|}~-]+"
_LABEL = r"[^\W_]([\w-]*[^\W_])?"
_ADDRESS = re.compile(rf"(?P<local>{_WORD}(\.{_WORD})*)@({_LABEL}\.)+{_LABEL}")


def normalize_email(address: str, field: str = "email") -> str:
    """Return the normal form of an address: trimmed, NFC, in lower case.

    Raise `RefusedError` if it is no address.
    """
    folded = normalize_prefix(address.strip())
    parts = _ADDRESS.fullmatch(folded)
    if not parts or len(folded) > _MAX_ADDRESS or len(parts["local"]) > _MAX_LOCAL_PART:
        raise invalid_field(field, "must be an email address")
    return folded


def normalize_username(username: str) -> str:
    """Return the normal form of a username: trimmed, in lower case."""
    return username.strip().lower()


def normalize_prefix(prefix: str) -> str:
    """Return the normal form of the beginning of an address or a username."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", prefix).lower())


def normalize_password(password: str) -> str:
    """Return the form in which passwords are compared."""
    return unicodedata.normalize("NFC", password)


def check_password(password: str, field: str) -> None:
    """Raise `RefusedError` if a new password is too short."""
    if len(normalize_password(password)) < MIN_PASSWORD_LENGTH:
        raise invalid_field(field, f"must have at least {MIN_PASSWORD_LENGTH} characters")
