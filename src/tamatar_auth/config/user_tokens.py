"""Settings of the one-time secrets that users receive by email."""

from datetime import timedelta
from typing import Annotated

from tamatar_auth.config.durations import Duration, between
from tamatar_auth.config.groups import SettingsGroup

_DAY = timedelta(days=1)


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
