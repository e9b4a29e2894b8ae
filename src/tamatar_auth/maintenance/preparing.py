"""Prepares a database of development."""

from tamatar_auth.maintenance.jobs import Report, seed
from tamatar_auth.maintenance.migrating import Migrations
from tamatar_auth.settings import Settings
from tamatar_auth.storage.connecting import libpq_url


def prepare(settings: Settings, report: Report) -> None:
    """Bring a database of development to its tables and its sample users."""
    Migrations(libpq_url(settings), report=report).upgrade()
    seed(settings, report)
