"""Settings of the database and of the connections to it."""

from datetime import timedelta
from typing import Annotated

from pydantic import AliasChoices, Field

from tamatar_auth.config.durations import Duration, between
from tamatar_auth.config.groups import SettingsGroup
from tamatar_auth.config.types import DatabaseUrl

_SECOND = timedelta(seconds=1)


class DatabaseSettings(SettingsGroup):
    """The database, and the connections to it."""

    url: Annotated[
        DatabaseUrl,
        Field(
            validation_alias=AliasChoices("TAMATAR_DATABASE_URL", "DATABASE_URL"),
            description="The URL of PostgreSQL, with several hosts if there are several servers."
            " DATABASE_URL is read too. Parameters in the URL win over the settings below.",
        ),
    ] = None
    listener_url: Annotated[
        DatabaseUrl,
        Field(
            validation_alias="TAMATAR_LISTENER_DATABASE_URL",
            description="The URL of the same database without a pooler in between, for the"
            " connection that listens for ended sessions. TAMATAR_DATABASE_URL unless set.",
        ),
    ] = None
    pool_size: Annotated[
        int,
        Field(
            validation_alias="TAMATAR_POOL_SIZE",
            ge=1,
            le=500,
            description="The most connections that the pool of a process holds.",
        ),
    ] = 10
    statement_timeout: Annotated[
        Duration,
        between(timedelta(milliseconds=10), timedelta(minutes=10)),
        Field(
            validation_alias="TAMATAR_STATEMENT_TIMEOUT",
            description="How long a statement may take.",
        ),
    ] = 5 * _SECOND
    lock_timeout: Annotated[
        Duration,
        between(timedelta(milliseconds=10), timedelta(minutes=10)),
        Field(
            validation_alias="TAMATAR_LOCK_TIMEOUT",
            description="How long a statement may wait for a lock.",
        ),
    ] = 2 * _SECOND
