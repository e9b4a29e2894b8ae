"""Settings of the database and of the connections to it."""

from datetime import timedelta
from typing import Annotated

from pydantic import AliasChoices, Field

from tamatar_auth.config.groups import SettingsGroup
from tamatar_auth.config.types import DatabaseUrl, Duration, between

_Timeout = Annotated[Duration, between(timedelta(milliseconds=10), timedelta(minutes=10))]


class DatabaseSettings(SettingsGroup):
    """The database, and the connections to it."""

    url: DatabaseUrl = Field(
        default=None, validation_alias=AliasChoices("TAMATAR_DATABASE_URL", "DATABASE_URL")
    )
    """The URL of PostgreSQL, with several hosts if there are several servers. DATABASE_URL is read
    too. Parameters in the URL win over the settings below."""
    listener_url: DatabaseUrl = Field(
        default=None, validation_alias="TAMATAR_LISTENER_DATABASE_URL"
    )
    """Another URL of the same database, such as one without a pooler, for the connection that reads
    the ends of sessions. TAMATAR_DATABASE_URL, which may lead through a pooler, unless set."""
    standby_url: DatabaseUrl = Field(default=None, validation_alias="TAMATAR_STANDBY_DATABASE_URL")
    """The URL of standbys of the same database, several hosts or a proxy to them. Sessions are
    validated there, as fresh as on the primary. Without it the primary is read."""
    pool_size: int = Field(default=10, ge=1, le=500)
    """The most connections that the pool of a process holds."""
    statement_timeout: _Timeout = timedelta(seconds=5)
    """How long a statement may take."""
    lock_timeout: _Timeout = timedelta(seconds=2)
    """How long a statement may wait for a lock."""
    primary_acknowledged_within: Annotated[
        Duration, between(timedelta(seconds=3), timedelta(minutes=10), or_zero=True)
    ] = timedelta(seconds=5)
    """How long ago the synchronous standbys may have acknowledged a commit of the primary. Later,
    no session is validated there, because another server may have taken over. 0 disables the check;
    without synchronous_standby_names there is none."""
