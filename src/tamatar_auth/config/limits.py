"""Limits of calls and streams."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field

from tamatar_auth.config.durations import Duration, between
from tamatar_auth.config.groups import SettingsGroup

_SHORTEST, _LONGEST = timedelta(milliseconds=100), timedelta(minutes=10)


class LimitSettings(SettingsGroup):
    """How long calls may take, and how many calls and streams a process accepts."""

    call_deadline: Annotated[
        Duration,
        between(_SHORTEST, _LONGEST),
        Field(
            validation_alias="TAMATAR_CALL_DEADLINE",
            description="How long a call may take if its caller sets no deadline. A call that"
            " hashes a password may take twice as long.",
        ),
    ] = timedelta(seconds=5)
    calls_in_flight: Annotated[
        int,
        Field(
            validation_alias="TAMATAR_CALLS_IN_FLIGHT",
            ge=1,
            le=100_000,
            description="The most calls that a process works on at once. Further calls are"
            " rejected, except those of health and reflection.",
        ),
    ] = 1000
    streams: Annotated[
        int,
        Field(
            validation_alias="TAMATAR_STREAMS",
            ge=1,
            le=100_000,
            description="The most streams of WatchSessions that a process holds. Further streams"
            " are rejected.",
        ),
    ] = 1000
    streams_per_connection: Annotated[
        int,
        Field(
            validation_alias="TAMATAR_STREAMS_PER_CONNECTION",
            ge=1,
            le=1000,
            description="The most streams of WatchSessions on one connection. A proxy carries the"
            " streams of all callers behind it.",
        ),
    ] = 100

    @property
    def password_call_deadline(self) -> timedelta:
        """How long a call may take that hashes a password, for which it may have to queue."""
        return 2 * self.call_deadline
