"""Which database a command works on."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tamatar_auth.cli.exits import usage_error
from tamatar_auth.cli.output import notify
from tamatar_auth.config.settings import Settings

EMBEDDED_DIRECTORY = Path(".tamatar/postgres")
"""The data of the embedded PostgreSQL, below the working directory."""


def require_database(settings: Settings) -> Settings:
    """Return the settings, or raise a usage error if they name no database."""
    if settings.database.url is None:
        raise usage_error(
            "TAMATAR_DATABASE_URL is not set. Set it to a PostgreSQL database, such as"
            " postgresql://user:password@host/database, or run `tamatar-auth serve --dev`."
        )
    return settings


@contextlib.contextmanager
def with_database(settings: Settings) -> Iterator[Settings]:
    """Yield settings that name a database: the configured one, or in development an embedded one.

    The embedded database stops when the block ends.
    """
    if settings.database.url is not None:
        yield settings
        return
    # A server of production does not load the embedded database.
    from tamatar_auth.embedded.postgres import EmbeddedPostgres  # noqa: PLC0415

    with EmbeddedPostgres(EMBEDDED_DIRECTORY, report=notify) as postgres:
        yield settings.with_database(postgres.url())
