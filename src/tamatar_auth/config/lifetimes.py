"""Settings of how long sessions, one-time secrets and old rows are kept."""

from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, Field

from tamatar_auth.config.groups import SettingsGroup
from tamatar_auth.config.types import Duration, between, empty_as_none

_DAY = timedelta(days=1)


class SessionSettings(SettingsGroup):
    """How long sessions live, and how many a user has."""

    lifetime: Annotated[Duration, between(timedelta(minutes=1), 365 * _DAY)] = Field(
        default=7 * _DAY, validation_alias="TAMATAR_SESSION_LIFETIME"
    )
    """How long a session lives."""
    idle_limit: Annotated[Duration, between(timedelta(minutes=1), 365 * _DAY, or_zero=True)] = (
        Field(default=timedelta(0), validation_alias="TAMATAR_SESSION_IDLE_LIMIT")
    )
    """How long a session may go unused, a minute or more. 0 means no limit. A use is recorded if
    the last record is a minute old, a quarter of a limit below 4 minutes, or a twentieth of one
    above 20, and at most 5 minutes. A session may end earlier by that much."""
    per_user: int = Field(
        default=100, validation_alias="TAMATAR_SESSIONS_PER_USER", ge=1, le=10_000
    )
    """The most live sessions of a user. A new one beyond that revokes the oldest."""


class UserTokenSettings(SettingsGroup):
    """How long the one-time secrets are valid that users receive by email."""

    email_verification_lifetime: Annotated[Duration, between(timedelta(minutes=1), 30 * _DAY)] = (
        _DAY
    )
    """How long a secret that verifies an address is valid."""
    password_reset_lifetime: Annotated[Duration, between(timedelta(minutes=1), _DAY)] = timedelta(
        minutes=10
    )
    """How long a secret that resets a password is valid."""


class RetentionSettings(SettingsGroup):
    """How long rows are kept, and how often the server removes the older ones."""

    sweep_interval: Annotated[Duration, between(timedelta(0), 7 * _DAY)] = timedelta(hours=1)
    """How often the server removes rows past their retention. 0 means never."""
    ended_sessions: Annotated[Duration, between(timedelta(0), 3650 * _DAY)] = Field(
        default=30 * _DAY, validation_alias="TAMATAR_ENDED_SESSION_RETENTION"
    )
    """How long a revoked session is kept at least. It is removed with its partition."""
    deleted_users: Annotated[
        Annotated[Duration, between(_DAY, 3650 * _DAY)] | None, BeforeValidator(empty_as_none)
    ] = Field(default=None, validation_alias="TAMATAR_DELETED_USER_RETENTION")
    """How long a deleted user is kept and can be restored. Then the server purges it. Unless set,
    deleted users are kept until PurgeUser."""
