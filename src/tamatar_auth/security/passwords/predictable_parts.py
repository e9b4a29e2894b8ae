"""The predictable parts of a password: repetitions, sequences, and names that guessers try first.

A predictable part counts as one character, whatever its length. So a long password may contain
the name of the service, and a password that is hardly more than that name counts as short.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from itertools import pairwise, takewhile

MIN_PART = 4
"""Characters that a repetition or a sequence has at least. Many words contain shorter ones."""

MAX_STEP = 2
"""The largest difference between neighbours of a sequence, as in 13579."""

_KEYBOARD = (
    *("1234567890", "!@#$%^&*()_+"),
    *("qwertyuiop[]", "asdfghjkl;'", "zxcvbnm,./"),
    *("qwertzuiop", "yxcvbnm,.-"),
    *("azertyuiop", "qsdfghjklm", "wxcvbn,;:"),
    *("йцукенгшщзхъ", "фывапролджэ", "ячсмитьбю"),
    *("1qaz2wsx3edc4rfv5tgb6yhn7ujm", "qazwsxedcrfvtgbyhnujm", "1q2w3e4r5t6y7u8i9o0p"),
)
_ROWS = (*_KEYBOARD, *(row[::-1] for row in _KEYBOARD))

# Of several letters that look like a digit, one stands for all: 1, ! and l become i.
_LOOKALIKES = str.maketrans("013457!@$l", "oieastiasi")


class PartKind(Enum):
    """A kind of predictable parts, with the rule for passwords that are little else."""

    REPETITION = "must not be mostly a repetition"
    SEQUENCE = "must not be mostly sequences such as 12345 or qwerty"
    OWN_NAME = "must not be mostly the user's own address or name"
    SERVICE_NAME = "must not be mostly the name of the service"


def words_of(names: Iterable[str]) -> Iterator[str]:
    """Yield names as `main_part` expects them: each as a whole, and each of its words."""
    for name in names:
        plain = unicodedata.normalize("NFC", name).casefold().translate(_LOOKALIKES)
        yield plain
        yield plain.replace(" ", "")
        yield from re.findall(r"[^\W_]+", plain)


def main_part(password: str, words: Mapping[str, PartKind], enough: int) -> PartKind | None:
    """Return the kind of parts that a casefolded password mostly has.

    Return None if `enough` characters count.
    """
    plain = password.translate(_LOOKALIKES)
    lengths: Counter[PartKind] = Counter()
    counted = place = 0
    while place < len(password):
        parts = [(len(word), kind) for word, kind in words.items() if plain.startswith(word, place)]
        parts += (_sequence(password, place), _repetition(password, place))
        length, kind = max(parts, key=lambda part: part[0])
        lengths[kind] += length - 1
        place += length
        counted += 1
        if counted == enough:
            return None
    return max(lengths, key=lengths.__getitem__)


def is_repetition(text: str, longest: int) -> bool:
    """Return whether a text is another one, of up to `longest` characters, several times.

    The last one may be incomplete. So two copies with a separator between them are one, too.
    """
    periods = range(1, min(longest, (len(text) + 1) // 2) + 1)
    return any(text.startswith(text[period:]) for period in periods)


def _sequence(text: str, place: int) -> tuple[int, PartKind]:
    """Return how many characters at a place have equal steps, or are neighbours on a keyboard."""
    codes = [*map(ord, text[place:])]
    steps = [after - before for before, after in pairwise(codes)]
    equal = sum(1 for _ in takewhile(lambda step: step == steps[0], steps))
    is_slow = bool(steps) and abs(steps[0]) <= MAX_STEP
    length = max(equal + 1 if is_slow else 1, *(_shared_length(text, place, it) for it in _ROWS))
    is_run = text[place : place + length] == text[place] * length
    kind = PartKind.REPETITION if is_run else PartKind.SEQUENCE
    return (length if length >= MIN_PART else 1), kind


def _shared_length(text: str, place: int, row: str) -> int:
    """Return how many characters at a place stand side by side in a row of keys."""
    length = 0
    while place + length < len(text) and text[place : place + length + 1] in row:
        length += 1
    return length


def _repetition(text: str, place: int) -> tuple[int, PartKind]:
    """Return how many characters at a place also stand before it, in the same order."""
    length = MIN_PART
    while place + length <= len(text) and text.find(text[place : place + length]) < place:
        length += 1
    return (length - 1 if length > MIN_PART else 1), PartKind.REPETITION
