"""Settings of the sweep, which removes rows past their retention."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field

from tamatar_auth.config.durations import Duration, between
from tamatar_auth.config.groups import SettingsGroup

_DAY = timedelta(days=1)


class RetentionSettings(SettingsGroup):
    """How long rows are kept, and how often the server removes the older ones."""

    sweep_interval: Annotated[Duration, between(timedelta(0), 7 * _DAY)] = timedelta(hours=1)
    """How often the server removes rows past their retention. 0 means never."""
    ended_sessions: Annotated[Duration, between(timedelta(0), 3650 * _DAY)] = Field(
        default=30 * _DAY, validation_alias="TAMATAR_ENDED_SESSION_RETENTION"
    )
    """How long a revoked session is kept."""
