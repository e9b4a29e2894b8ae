"""Delays between attempts to reach a service."""

import random


class Backoff:
    """Delays that double from a minimum to a maximum.

    Each is shortened by up to half at random: clients that failed together return apart.
    """

    def __init__(self, minimum: float, maximum: float) -> None:
        self._minimum = self._delay = minimum
        self._maximum = maximum

    def reset(self) -> None:
        """Return to the minimum after a success."""
        self._delay = self._minimum

    def next_delay(self, *, at_least: float = 0.0) -> float:
        """Return the seconds to wait before the next attempt."""
        delay = max(at_least, self._delay)
        self._delay = min(2 * self._delay, self._maximum)
        return delay * random.uniform(0.5, 1)  # noqa: S311 - jitter
