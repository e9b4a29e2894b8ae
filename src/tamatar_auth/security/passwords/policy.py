"""The password policy: long enough, not common, not the user's own name.

There are no composition rules (NIST SP 800-63B-4, 3.1.1.2): every code point is allowed and
counts as one. The common passwords are the list of zxcvbn, from published breaches.
"""

import unicodedata
from collections.abc import Iterable
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec

from tamatar_auth.errors import InvalidFields

MAX_LENGTH = 256
"""Code points. The protos have the rules for length and control characters too, but not every
password is set by a call."""


class PasswordPolicy:
    """Checks new passwords."""

    def __init__(self, min_length: int) -> None:
        self._min_length = min_length
        _common_passwords()  # loaded at the start, not during a call

    def check(self, password: str, *, names: Iterable[str], field: str = "password") -> None:
        """Raise `InvalidFields` with the reason if the password is not acceptable.

        `names` are the user's address and names. Lengths count code points.
        """
        if len(unicodedata.normalize("NFC", password)) < self._min_length:
            raise InvalidFields.field(field, f"must have at least {self._min_length} characters")
        if len(password) > MAX_LENGTH:
            raise InvalidFields.field(field, f"must have at most {MAX_LENGTH} characters")
        if any(unicodedata.category(character) == "Cc" for character in password):
            raise InvalidFields.field(field, "must not have control characters")
        folded = _casefolded(password)
        if folded in _common_passwords():
            raise InvalidFields.field(field, "must not be a common password")
        if folded in _name_variants(names):
            raise InvalidFields.field(field, "must not be the user's own address or name")


def _casefolded(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold().strip()


def _name_variants(names: Iterable[str]) -> set[str]:
    """Return each name as a whole, without spaces, and an address without its domain."""
    whole = {_casefolded(name) for name in names}
    return whole | {name.partition("@")[0] for name in whole} | {n.replace(" ", "") for n in whole}


@cache
def _common_passwords() -> frozenset[str]:
    """Load one list of zxcvbn. An import of the package would keep all of them: 9 MB more."""
    package = find_spec("zxcvbn")
    assert package is not None  # noqa: S101 - for the type checker
    file = PathFinder.find_spec("frequency_lists", package.submodule_search_locations)
    assert file is not None  # noqa: S101 - for the type checker
    assert file.loader is not None  # noqa: S101 - for the type checker
    lists = module_from_spec(file)
    file.loader.exec_module(lists)
    return frozenset(map(_casefolded, lists.FREQUENCY_LISTS["passwords"]))
