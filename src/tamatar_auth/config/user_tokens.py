"""Settings of the one-time secrets that users receive by email."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field

from tamatar_auth.config.durations import Duration, between
from tamatar_auth.config.groups import SettingsGroup

_DAY = timedelta(days=1)


class UserTokenSettings(SettingsGroup):
    """How long the one-time secrets are valid that users receive by email."""

    email_verification_lifetime: Annotated[
        Duration,
        between(timedelta(minutes=1), 30 * _DAY),
        Field(
            validation_alias="TAMATAR_EMAIL_VERIFICATION_LIFETIME",
            description="How long a secret that verifies an address is valid.",
        ),
    ] = _DAY
    password_reset_lifetime: Annotated[
        Duration,
        between(timedelta(minutes=1), _DAY),
        Field(
            validation_alias="TAMATAR_PASSWORD_RESET_LIFETIME",
            description="How long a secret that resets a password is valid.",
        ),
    ] = timedelta(minutes=10)
