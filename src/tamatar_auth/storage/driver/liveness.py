"""Detecting silent servers: their connections stay open, but they answer nothing.

The kernel detects a host that is gone, because its packets are not acknowledged. It does not
detect a frozen process or a stuck proxy. If one statement has waited too long for a server,
other statements wait for it too. So all connections that were opened before are dropped, and
new connections go to a host that answers.
"""

import select
from dataclasses import dataclass

import psycopg

SUSPECT_AFTER = 1.0
"""Seconds in which a live server answers a statement that waits for no lock."""

CLOCK_TOLERANCE = 0.99
"""The share of a timeout that has passed on this clock, if it has passed on PostgreSQL's."""


class SilentServerError(psycopg.OperationalError):
    """The server has not answered for too long."""


@dataclass(frozen=True, slots=True)
class SilenceLimits:
    """How long a server may leave a statement unanswered before it counts as silent."""

    statement: float | None = None
    """Seconds for a statement; None: a statement may take any time."""
    cancelled: float | None = None
    """Seconds for a statement that is cancelled then; None: a cancelled one proves nothing."""
    timeout: float | None = None
    """Seconds after which PostgreSQL itself ends a statement; None: unknown."""

    def exceeds_timeout(self, waited: float) -> bool:
        """Return whether PostgreSQL may have ended a statement because of its timeout."""
        return self.timeout is None or waited > self.timeout * CLOCK_TOLERANCE


class FailureDetector:
    """Remembers since when the last silent server has been silent."""

    def __init__(self) -> None:
        self._silent_since = float("-inf")

    def report_silence(self, moment: float) -> None:
        """Suspect all connections that were opened before `moment`.

        A connection that was opened later got answers later.
        """
        self._silent_since = max(self._silent_since, moment)

    def suspects(self, connect_started_at: float) -> bool:
        """Return whether a connection of that age leads to a silent server."""
        return connect_started_at < self._silent_since


def is_readable(descriptor: int) -> bool:
    """Return whether a socket has data, or the end of the stream, to read."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
