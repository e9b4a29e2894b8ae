"""Settings of users' sessions."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field

from tamatar_auth.config.durations import Duration, between
from tamatar_auth.config.groups import SettingsGroup

_DAY = timedelta(days=1)


class SessionSettings(SettingsGroup):
    """How long sessions live, and how many a user has."""

    lifetime: Annotated[Duration, between(timedelta(minutes=1), 365 * _DAY)] = Field(
        default=7 * _DAY, validation_alias="TAMATAR_SESSION_LIFETIME"
    )
    """How long a session lives."""
    idle_limit: Annotated[Duration, between(timedelta(0), 365 * _DAY)] = Field(
        default=timedelta(0), validation_alias="TAMATAR_SESSION_IDLE_LIMIT"
    )
    """How long a session may go unused. 0 means no limit."""
    per_user: int = Field(
        default=100, validation_alias="TAMATAR_SESSIONS_PER_USER", ge=1, le=10_000
    )
    """The most live sessions of a user. A new one beyond that revokes the oldest."""
