"""The normal form of addresses and usernames: the form that is stored, unique and looked up.

Only this module folds case. Python and PostgreSQL disagree on some letters, so no statement folds
case, and the unique indexes contain the forms from here.
"""

import unicodedata

from email_validator import EmailNotValidError, validate_email

from tamatar_auth.errors import InvalidFields


def normalize_email(address: str, field: str = "email") -> str:
    """Return the normal form: trimmed, NFC, in lower case, the domain as Unicode.

    Raise `InvalidFields` if it is no address: RFC 5322 without comments and quotes, RFC 6531 for
    letters beyond ASCII, and RFC 5321 for the lengths (254 characters, 64 before the at sign).
    Deliverability is not checked.
    """
    try:
        folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", address.strip()).lower())
        valid = validate_email(
            folded, check_deliverability=False, test_environment=True, strict=True
        )
    except (EmailNotValidError, ValueError):
        raise InvalidFields.field(field, "must be an email address") from None
    return valid.normalized


def normalize_prefix(prefix: str) -> str:
    """Return the normal form of the beginning of an address or a username."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", prefix).lower())


def normalize_username(username: str) -> str:
    """Return the normal form of a username: trimmed, in lower case.

    Its rules allow only ASCII letters.
    """
    return username.strip().lower()
