"""Servers that fall silent: their connections stay open, and nothing is answered on them.

The kernel notices a host that is gone, as nobody acknowledges what is sent. It does not notice
a process that is frozen, or a proxy that holds what is said. A server from which one statement
has heard nothing for too long has answered no other one either: all connections that were opened
before are left, so that the next ones lead to a host that answers.
"""

import select
from dataclasses import dataclass
from typing import Protocol

import psycopg

SUSPECT_AFTER = 1.0
"""Seconds in which a server answers what waits for nothing, if it is there."""


class SilentServerError(psycopg.OperationalError):
    """The server has answered nothing for too long."""


@dataclass(frozen=True, slots=True)
class SilenceLimits:
    """When a server that has answered nothing to a statement has fallen silent."""

    statement: float | None = None
    """Seconds after which it has; None: the statement may take any time."""
    cancelled: float | None = None
    """Seconds after which it has if nobody waits any more; None: that proves nothing."""


class SupportsConnectTime(Protocol):
    """A connection on which a statement runs."""

    connect_started_at: float


class FailureDetector:
    """Knows since when nothing was heard of the server that fell silent last."""

    def __init__(self) -> None:
        self._silent_since = float("-inf")

    def report_silence(self, moment: float) -> None:
        """Count what was opened before a moment as leading to a silent server.

        What was opened later was answered later.
        """
        self._silent_since = max(self._silent_since, moment)

    def suspects(self, connection: SupportsConnectTime) -> bool:
        """Tell whether a connection leads to a silent server."""
        return connection.connect_started_at < self._silent_since


def is_readable(descriptor: int) -> bool:
    """Tell whether there is something to read on a socket: an answer, or its end."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
