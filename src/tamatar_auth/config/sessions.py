"""Settings of users' sessions."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field

from tamatar_auth.config.durations import Duration, between
from tamatar_auth.config.groups import SettingsGroup

_DAY = timedelta(days=1)


class SessionSettings(SettingsGroup):
    """How long sessions live, and how many a user has."""

    lifetime: Annotated[
        Duration,
        between(timedelta(minutes=1), 365 * _DAY),
        Field(
            validation_alias="TAMATAR_SESSION_LIFETIME",
            description="How long a session lives.",
        ),
    ] = 7 * _DAY
    idle_limit: Annotated[
        Duration,
        between(timedelta(0), 365 * _DAY),
        Field(
            validation_alias="TAMATAR_SESSION_IDLE_LIMIT",
            description="How long a session may go unused. 0 means no limit.",
        ),
    ] = timedelta(0)
    per_user: Annotated[
        int,
        Field(
            validation_alias="TAMATAR_SESSIONS_PER_USER",
            ge=1,
            le=10_000,
            description="The most live sessions of a user. A new one beyond that revokes the"
            " oldest.",
        ),
    ] = 100
