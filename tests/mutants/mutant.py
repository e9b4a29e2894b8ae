"""A mutant: the source with one line changed for the worse, which a test must see."""

from collections.abc import Sequence
from typing import NamedTuple


class Mutant(NamedTuple):
    """A change of one place in a file of the source, and the tests that must fail with it."""

    name: str
    file: str
    """The path below `src/tamatar_auth`."""
    old: str
    """A text that occurs once in the file."""
    new: str
    tests: Sequence[str]
    """Node ids below `tests`, such as `servicers/test_users.py::TestCreateUser`."""

    def apply(self, source: str) -> str:
        """Return the changed source, or raise `ValueError` if the mutant does not fit."""
        if source.count(self.old) != 1:
            raise ValueError(f"{self.file} has {source.count(self.old)} times {self.old!r}")
        return source.replace(self.old, self.new)


def mutant(name: str, file: str, old: str, new: str, *tests: str) -> Mutant:
    """Return a mutant of a file."""
    return Mutant(name, file, old, new, tests)
