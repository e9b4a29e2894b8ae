"""Limits of calls and streams."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field

from tamatar_auth.config.groups import SettingsGroup
from tamatar_auth.config.types import Duration, between

_SHORTEST, _LONGEST = timedelta(milliseconds=100), timedelta(minutes=10)


class LimitSettings(SettingsGroup):
    """How long calls may take, and how many calls and streams a process accepts."""

    call_deadline: Annotated[Duration, between(_SHORTEST, _LONGEST)] = timedelta(seconds=5)
    """How long a call may take if its caller sets no deadline. A call that hashes a password may
    take twice as long."""
    calls_in_flight: int = Field(default=1000, ge=1, le=100_000)
    """The most calls that a process works on at once. Further calls are rejected, except those of
    health and reflection."""
    streams: int = Field(default=1000, ge=1, le=100_000)
    """The most streams of WatchSessions that a process holds. Further streams are rejected."""
    streams_per_connection: int = Field(default=50, ge=1, le=1000)
    """The most streams of WatchSessions on one connection, which takes 50 calls besides. A proxy
    carries the streams of all callers behind it."""

    @property
    def password_call_deadline(self) -> timedelta:
        """How long a call may take that hashes a password, for which it may have to queue."""
        return 2 * self.call_deadline
