"""Preparation of a development database."""

from tamatar_auth.config.settings import Settings
from tamatar_auth.jobs.run import Report, seed
from tamatar_auth.migrator.migrations import Migrations
from tamatar_auth.storage.driver.connect import libpq_url


def prepare(settings: Settings, report: Report) -> None:
    """Migrate a development database, and seed its sample users."""
    Migrations(libpq_url(settings.database), report=report).upgrade()
    seed(settings, report)
