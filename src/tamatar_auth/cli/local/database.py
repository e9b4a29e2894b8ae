"""Which database a command works on."""

from tamatar_auth.cli.exits import usage_error
from tamatar_auth.config.settings import Settings


def require_database(settings: Settings) -> Settings:
    """Return the settings, or raise a usage error if they name no database."""
    if settings.database.url is None:
        raise usage_error(
            "TAMATAR_DATABASE_URL is not set. Set it to a PostgreSQL database, such as"
            " postgresql://user:password@host/database, or run `tamatar-auth serve --dev`."
        )
    return settings
