"""How long a batch waits for more calls before its statement starts.

A lone call does not wait. Concurrent calls do, because callers that were answered together call
again together: the batch grows until it contains all of them. Once it stops growing, the next
batches start as soon as they have the same size.
"""

from math import ceil

TICK, MAX_WAIT = 0.001, 0.004
"""Seconds. A batch waits one tick for each four calls of the batch before, rounded up, and at
most MAX_WAIT. uvloop rounds its timers to ticks. With shorter waits small batches stayed small,
however many callers there were."""

FULL_BATCH = 24
"""The size at which a batch never waits: each call's share of the statement is small."""

TRUSTED_BATCHES = 16
"""After a batch has waited in vain, this many batches start at its size. Then one waits again,
because other calls may have been on their way."""

IDLE_RESET = 0.05
"""Seconds after which the batch before is forgotten, and the next call counts as alone."""


class BatchWindow:
    """Decides when a batch starts, by the batches before it."""

    def __init__(self) -> None:
        self.full_size = FULL_BATCH
        """The size at which a batch starts at once."""
        self._last_size, self._last_started_at, self._trusted_left = 1, 0.0, 0

    def seconds_to_wait(self, pending: int, now: float) -> float:
        """Return the seconds that the pending calls wait for more; 0: start at once.

        `now` is the time of the event loop, in seconds.
        """
        is_alone = self._last_size <= 1 or now - self._last_started_at > IDLE_RESET
        if not is_alone and pending < self.full_size:
            return min(ceil(self._last_size / 4) * TICK, MAX_WAIT)
        self._trusted_left -= 1
        if self._trusted_left <= 0:
            self.full_size = FULL_BATCH
        return 0.0

    def record_wait(self, pending: int) -> None:
        """Learn from a batch that has waited. If it did not grow, it contains all callers."""
        if pending <= self._last_size:
            self.full_size, self._trusted_left = max(pending, 2), TRUSTED_BATCHES

    def record_batch(self, size: int, now: float) -> None:
        """Record the size of a batch whose statement starts."""
        self._last_size, self._last_started_at = size, now

    def record_arrivals(self, pending: int) -> None:
        """Record the calls that arrived while a statement ran: its batch missed some callers.

        A call among them is not alone, because the callers of that batch will call again.
        """
        self.full_size = min(self.full_size + pending, FULL_BATCH)
        self._last_size = max(self._last_size, 2)
