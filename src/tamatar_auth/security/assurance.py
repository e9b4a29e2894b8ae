"""How a user was authenticated (RFC 8176), and how strongly (NIST SP 800-63B)."""

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Self

_KNOWLEDGE = frozenset({"pwd"})
_POSSESSION = frozenset({"otp", "hwk", "swk"})
_SEVERAL_FACTORS = "mfa"


class Level(IntEnum):
    """The assurance level. The numbers are those of the proto's `AssuranceLevel`."""

    AAL1 = 1
    AAL2 = 2


@dataclass(frozen=True, slots=True)
class Methods:
    """The methods by which a user was authenticated, as sorted words of RFC 8176.

    Something that the user knows and something that the user has are several factors, so `mfa`
    is added to them. A passkey that verified the user is several factors too: its words include
    `mfa` from the start.
    """

    words: tuple[str, ...]

    @classmethod
    def of(cls, *words: str) -> Self:
        """Return the methods of these words, in any order."""
        found = set(words)
        if found & _KNOWLEDGE and found & _POSSESSION:
            found.add(_SEVERAL_FACTORS)
        return cls(tuple(sorted(found)))

    @classmethod
    @lru_cache(maxsize=256)
    def parse(cls, text: str) -> Self:
        """Return the methods of a stored text."""
        return cls.of(*text.split())

    @property
    def text(self) -> str:
        """The words, separated by spaces, as they are stored."""
        return " ".join(self.words)

    @property
    def is_mfa(self) -> bool:
        """Whether the user proved several factors."""
        return _SEVERAL_FACTORS in self.words

    @property
    def level(self) -> Level:
        """The assurance level."""
        return Level.AAL2 if self.is_mfa else Level.AAL1

    def __or__(self, other: "Methods") -> "Methods":
        """Return the methods of two proofs for one session."""
        return Methods.of(*self.words, *other.words)


PASSWORD = Methods.of("pwd")
"""A password alone."""
