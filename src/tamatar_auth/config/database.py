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
    pool_wait: Annotated[
        Duration,
        between(timedelta(milliseconds=1), _SECOND),
        Field(
            validation_alias="TAMATAR_POOL_WAIT",
            description="How long a call waits for a connection, at most 1s.",
        ),
    ] = _SECOND
    pool_recycle: Annotated[
        Duration,
        between(_SECOND, timedelta(days=1)),
        Field(
            validation_alias="TAMATAR_POOL_RECYCLE",
            description="The age at which a connection is replaced.",
        ),
    ] = timedelta(minutes=30)
    application_name: Annotated[
        str,
        Field(
            validation_alias="TAMATAR_APPLICATION_NAME",
            min_length=1,
            max_length=63,
            pattern=r"^[\x20-\x7e]+$",
            description="How the service calls itself in pg_stat_activity.",
        ),
    ] = "tamatar-auth"
    connect_timeout: Annotated[
        Duration,
        between(2 * _SECOND, 60 * _SECOND),
        Field(
            validation_alias="TAMATAR_CONNECT_TIMEOUT",
            description="How long connecting to PostgreSQL may take, in whole seconds.",
        ),
    ] = 2 * _SECOND
    tcp_user_timeout: Annotated[
        Duration,
        between(timedelta(milliseconds=100), 60 * _SECOND),
        Field(
            validation_alias="TAMATAR_TCP_USER_TIMEOUT",
            description="How long PostgreSQL may leave our packets unanswered.",
        ),
    ] = timedelta(milliseconds=1500)
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
    idle_in_transaction_timeout: Annotated[
        Duration,
        between(timedelta(milliseconds=100), timedelta(minutes=10)),
        Field(
            validation_alias="TAMATAR_IDLE_IN_TRANSACTION_TIMEOUT",
            description="How long a transaction may rest between statements.",
        ),
    ] = 10 * _SECOND
    health_interval: Annotated[
        Duration,
        between(timedelta(milliseconds=50), 2 * _SECOND),
        Field(
            validation_alias="TAMATAR_HEALTH_INTERVAL",
            description="How often the database is checked for the health service.",
        ),
    ] = _SECOND
