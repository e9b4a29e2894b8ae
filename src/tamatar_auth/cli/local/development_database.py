"""The embedded database of development, for settings that name none."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tamatar_auth.cli.local.database import require_database
from tamatar_auth.cli.output import notify
from tamatar_auth.config.settings import Settings
from tamatar_auth.embedded.postgres import EmbeddedPostgres

EMBEDDED_DIRECTORY = Path(".tamatar/postgres")
"""The data of the embedded PostgreSQL, below the working directory."""


@contextlib.contextmanager
def with_database(settings: Settings) -> Iterator[Settings]:
    """Yield settings that name a database: the configured one, or in development an embedded one.

    The embedded database stops when the block ends.
    """
    if settings.database.url is not None or settings.environment == "production":
        yield require_database(settings)
        return
    with EmbeddedPostgres(EMBEDDED_DIRECTORY, report=notify) as postgres:
        yield settings.with_database(postgres.url())
