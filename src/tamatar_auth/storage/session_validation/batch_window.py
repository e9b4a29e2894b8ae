"""Pace: for how long a group of calls waits for more before its statement begins.

Nobody waits who is alone. In company it pays to wait, as callers that were answered together ask
again together: the group grows until all are in it. Once it grows no more, the next ones need
not wait longer than until as many have come.
"""

from math import ceil

TICK, LONGEST_WAIT = 0.001, 0.004
"""Seconds. A group gathers for a tick for each four of the one before, or a part of four, and at
most for so long. In parts of a tick, which timers of uvloop round, small groups were followed by
others as small, however many calls there were."""

ENOUGH = 24
"""How many never wait for more: a statement for them costs each of them little."""

TRUSTED = 16
"""How many groups begin when they are as many as one that waited in vain, until one waits again:
it may have waited while the others were on their way."""

COMPANY = 0.05
"""Seconds after which the group before is forgotten: who comes then is alone."""


class Pace:
    """Tells when a group begins, by the ones before it."""

    def __init__(self) -> None:
        self.enough = ENOUGH
        """How many need not wait for more."""
        self._last, self._taken_at, self._trusted = 1, 0.0, 0

    def wait(self, gathered: int, now: float) -> float:
        """Return for how many seconds those who have come wait for more; 0 if they do not.

        `now` is the time of the loop, in seconds.
        """
        is_alone = self._last <= 1 or now - self._taken_at > COMPANY
        if not is_alone and gathered < self.enough:
            return min(ceil(self._last / 4) * TICK, LONGEST_WAIT)
        self._trusted -= 1
        if self._trusted <= 0:
            self.enough = ENOUGH
        return 0.0

    def waited(self, gathered: int) -> None:
        """Learn from a group that has waited: if it has not grown, it is all there are."""
        if gathered <= self._last:
            self.enough, self._trusted = max(gathered, 2), TRUSTED

    def took(self, group: int, now: float) -> None:
        """Note a group whose statement begins."""
        self._last, self._taken_at = group, now

    def left(self, gathered: int) -> None:
        """Note those who came while a statement ran: there are more than were in its group.

        They are not alone, as the others are about to come.
        """
        self.enough = min(self.enough + gathered, ENOUGH)
        self._last = max(self._last, 2)
