"""BatchWindow: for how long a group of calls waits for more before its statement begins.

Nobody waits who is alone. In company it pays to wait, as callers that were answered together ask
again together: the group grows until all are in it. Once it grows no more, the next ones need
not wait longer than until as many have come.
"""

from math import ceil

TICK, MAX_WAIT = 0.001, 0.004
"""Seconds. A group gathers for a tick for each four of the one before, or a part of four, and at
most for so long. In parts of a tick, which timers of uvloop round, small groups were followed by
others as small, however many calls there were."""

FULL_BATCH = 24
"""How many never wait for more: a statement for them costs each of them little."""

TRUSTED_BATCHES = 16
"""How many groups begin when they are as many as one that waited in vain, until one waits again:
it may have waited while the others were on their way."""

IDLE_RESET = 0.05
"""Seconds after which the group before is forgotten: who comes then is alone."""


class BatchWindow:
    """Tells when a group begins, by the ones before it."""

    def __init__(self) -> None:
        self.full_size = FULL_BATCH
        """How many need not wait for more."""
        self._last_size, self._last_started_at, self._trusted_left = 1, 0.0, 0

    def seconds_to_wait(self, pending: int, now: float) -> float:
        """Return for how many seconds those who have come wait for more; 0 if they do not.

        `now` is the time of the loop, in seconds.
        """
        is_alone = self._last_size <= 1 or now - self._last_started_at > IDLE_RESET
        if not is_alone and pending < self.full_size:
            return min(ceil(self._last_size / 4) * TICK, MAX_WAIT)
        self._trusted_left -= 1
        if self._trusted_left <= 0:
            self.full_size = FULL_BATCH
        return 0.0

    def record_wait(self, pending: int) -> None:
        """Learn from a group that has waited: if it has not grown, it is all there are."""
        if pending <= self._last_size:
            self.full_size, self._trusted_left = max(pending, 2), TRUSTED_BATCHES

    def record_batch(self, size: int, now: float) -> None:
        """Note a group whose statement begins."""
        self._last_size, self._last_started_at = size, now

    def record_arrivals(self, pending: int) -> None:
        """Note those who came while a statement ran: there are more than were in its group.

        They are not alone, as the others are about to come.
        """
        self.full_size = min(self.full_size + pending, FULL_BATCH)
        self._last_size = max(self._last_size, 2)
