"""Addresses and names in their normal form: the one that is stored, unique and looked up.

This is the only place that folds case. Python and PostgreSQL disagree on some letters, so
the database never does it, and its unique indexes stand on what is made here.
"""

import unicodedata

from email_validator import EmailNotValidError, validate_email

from tamatar_auth.errors import InvalidFields


def normalize_email(address: str, field: str = "email") -> str:
    """Give the normal form: NFC, in lower case, the domain as Unicode.

    Raise `InvalidFields` for what is no address (RFC 5322 without comments and quotes, RFC
    6531 for letters beyond ASCII; RFC 5321: at most 254 characters, 64 before the at sign).
    Whether somebody reads mail there is not asked.
    """
    try:
        folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", address).lower())
        valid = validate_email(
            folded, check_deliverability=False, test_environment=True, strict=True
        )
    except (EmailNotValidError, ValueError):
        raise InvalidFields.field(field, "must be an email address") from None
    return valid.normalized


def normalize_prefix(prefix: str) -> str:
    """Fold the beginning of an address or a name as the whole was folded."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", prefix).lower())


def normalize_username(username: str) -> str:
    """Give the normal form of a username: lower case. Its letters are ASCII by rule."""
    return username.lower()
