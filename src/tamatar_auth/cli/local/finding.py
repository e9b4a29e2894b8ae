"""The result of one check of the doctor."""

from typing import NamedTuple


class Finding(NamedTuple):
    """The result of one check."""

    subject: str
    ok: bool
    text: str
    is_warning: bool = False
    """Whether the part works, but is a risk."""

    @property
    def label(self) -> str:
        """The level as it is printed."""
        return "FAIL" if not self.ok else "warn" if self.is_warning else "ok"
