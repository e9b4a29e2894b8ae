"""Recovery codes: 60 random bits in Crockford's base32, in groups of four letters."""

import secrets
from collections.abc import Sequence

CODES = 10
"""How many codes a user gets."""

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_GROUPS, _GROUP_LETTERS = 3, 4
# Letters that people read as another one.
_READ_AS = str.maketrans({"O": "0", "I": "1", "L": "1", " ": None, "-": None})


def new_codes() -> Sequence[str]:
    """Return new codes, all different."""
    codes: dict[str, None] = {}
    while len(codes) < CODES:
        codes[_new_code()] = None
    return [*codes]


def normalize_code(text: str) -> str:
    """Return a code as it is digested: capitals without spaces and dashes."""
    return text.upper().translate(_READ_AS)


def _new_code() -> str:
    groups = (
        "".join(secrets.choice(_ALPHABET) for _ in range(_GROUP_LETTERS)) for _ in range(_GROUPS)
    )
    return "-".join(groups)
