"""The delays between retries."""

import random

MIN_SECONDS, MAX_SECONDS = 0.1, 5.0


class Backoff:
    """Delays that double from the shortest to the longest, each shortened by up to a half.

    The jitter keeps clients that failed at the same time from retrying at the same time.
    """

    def __init__(self) -> None:
        self._delay = MIN_SECONDS

    def reset(self) -> None:
        """Start from the shortest delay again, after a success."""
        self._delay = MIN_SECONDS

    def next_delay(self, at_least: float = 0.0) -> float:
        """Return the seconds to wait before the next attempt.

        `at_least` replaces a shorter delay, and is shortened at random as well.
        """
        delay = max(at_least, self._delay)
        self._delay = min(2 * self._delay, MAX_SECONDS)
        return delay * random.uniform(0.5, 1)  # noqa: S311 - jitter
