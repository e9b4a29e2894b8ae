"""The clock of the fake service."""

from datetime import UTC, datetime, timedelta


class Clock:
    """The clock of this machine, and a distance that tests add to it."""

    def __init__(self) -> None:
        self._ahead = timedelta(0)

    def now(self) -> datetime:
        """Return the present time of the fake service."""
        return datetime.now(UTC) + self._ahead

    def advance(self, time: timedelta) -> None:
        """Move the clock forward."""
        self._ahead += time
