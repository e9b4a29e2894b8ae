"""Which passwords are accepted: long enough, not common, not the user's own name.

There are no rules of composition (NIST SP 800-63B-4, 3.1.1.2): every character counts as one,
and any is welcome. The list of common passwords is that of zxcvbn, which is drawn from
published breaches.
"""

import unicodedata
from collections.abc import Iterable
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec

from tamatar_auth.errors import InvalidFields

MAX_LENGTH = 256
"""Code points. The protos say so too, and that control characters are none of a password's;
not every password that is set comes in a call."""


class PasswordPolicy:
    """Accepts or refuses new passwords."""

    def __init__(self, min_length: int) -> None:
        self._min_length = min_length
        _common_passwords()  # at the start rather than while somebody waits

    def check(self, password: str, *, names: Iterable[str], field: str = "password") -> None:
        """Raise `InvalidFields` with the reason unless the password may be one.

        `names` are the words by which the user is known. Lengths count code points.
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
    """List each name whole, without its spaces, and an address without its domain."""
    whole = {_casefolded(name) for name in names}
    return whole | {name.partition("@")[0] for name in whole} | {n.replace(" ", "") for n in whole}


@cache
def _common_passwords() -> frozenset[str]:
    """Read one of the lists; a package that is imported keeps all of them, which is 9 MB more."""
    package = find_spec("zxcvbn")
    assert package is not None  # noqa: S101 - for the type checker
    file = PathFinder.find_spec("frequency_lists", package.submodule_search_locations)
    assert file is not None  # noqa: S101 - for the type checker
    assert file.loader is not None  # noqa: S101 - for the type checker
    lists = module_from_spec(file)
    file.loader.exec_module(lists)
    return frozenset(map(_casefolded, lists.FREQUENCY_LISTS["passwords"]))
