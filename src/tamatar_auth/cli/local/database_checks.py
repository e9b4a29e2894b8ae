"""The doctor's checks of the database."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import psycopg

from tamatar_auth.cli.local.finding import Finding
from tamatar_auth.cli.local.partitions import examine_partitions
from tamatar_auth.cli.local.standby_checks import check_standby
from tamatar_auth.config.database import DatabaseSettings
from tamatar_auth.config.errors import OperatorError
from tamatar_auth.config.settings import Settings
from tamatar_auth.config.types import format_duration
from tamatar_auth.migrator.connection import connect
from tamatar_auth.migrator.migrations import Migrations
from tamatar_auth.storage.driver.connect import connector, libpq_url
from tamatar_auth.storage.driver.orphaned_statements import OrphanedStatements
from tamatar_auth.storage.driver.pooler import find_pooler_problem
from tamatar_auth.storage.repositories.diagnostics import READ_ONLY_REASON

CLOCK_TOLERANCE = 2.0
"""Seconds that the clocks of service and database may differ."""

_STANDBYS_SQL = """
    SELECT current_setting('synchronous_standby_names'), current_setting('synchronous_commit'),
           (SELECT count(*) FROM pg_stat_replication)
"""


def check_database(settings: Settings) -> Iterator[Finding]:
    """Check the database, its clock, its standbys, a pooler, the tables and partitions."""
    if settings.database.url is None:
        text = "TAMATAR_DATABASE_URL is not set; `tamatar-auth serve --dev` starts a database"
        yield Finding("database", ok=True, text=text)
        return
    try:
        with connect(libpq_url(settings.database)) as connection:
            yield _postgres(connection)
            yield _clock(connection)
            yield _standbys(connection, settings.database)
            yield from check_standby(settings.database, connection)
    except OperatorError as error:
        yield Finding("database", ok=False, text=f"{error} Check TAMATAR_DATABASE_URL.")
        return
    yield from _pooler(settings)
    yield from _tables(settings)


def _postgres(connection: psycopg.Connection[Any]) -> Finding:
    info = connection.info
    text = f"PostgreSQL {info.server_version // 10000} on {info.host}:{info.port}"
    row = connection.execute(f"SELECT {READ_ONLY_REASON}").fetchone()
    reason = row[0] if row else None
    return Finding("database", reason is None, f"{text}; {reason}" if reason else text)


def _clock(connection: psycopg.Connection[Any]) -> Finding:
    before = time.time()
    row = connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
    local_time = (before + time.time()) / 2
    difference = abs((row[0] if row else local_time) - local_time)
    ok = difference <= CLOCK_TOLERANCE
    advice = "" if ok else "; the database's clock decides validity: synchronize both by NTP"
    return Finding("clock", ok, f"differs from the database's by {difference:.1f} s{advice}")


def _standbys(connection: psycopg.Connection[Any], settings: DatabaseSettings) -> Finding:
    row = connection.execute(_STANDBYS_SQL).fetchone()
    names, commit, count = row or ("", "on", 0)
    within = format_duration(settings.primary_acknowledged_within)
    if not names:
        text = "commits wait for none, so a primary that was replaced is not detected"
        advice = "; set synchronous_standby_names" if count else ""
        return Finding("standbys", ok=True, text=text + advice, is_warning=bool(count))
    if commit in {"off", "local"}:
        text = f"commits do not wait for {names}: set synchronous_commit to on"
        return Finding("standbys", ok=True, text=text, is_warning=True)
    if not settings.primary_acknowledged_within:
        text = (
            "a primary that was replaced still validates sessions: set"
            " TAMATAR_PRIMARY_ACKNOWLEDGED_WITHIN"
        )
        return Finding("standbys", ok=True, text=text, is_warning=True)
    text = f"commits wait for {names}; without one in {within} no session is validated"
    return Finding("standbys", ok=True, text=text)


def _pooler(settings: Settings) -> Iterator[Finding]:
    connect = connector(settings.database, OrphanedStatements(), autocommit=True)
    if problem := asyncio.run(find_pooler_problem(connect)):
        yield Finding("pooler", ok=False, text=problem)


def _tables(settings: Settings) -> Iterator[Finding]:
    try:
        status = Migrations(libpq_url(settings.database)).status()
    except OperatorError as error:
        yield Finding("tables", ok=False, text=str(error))
        return
    if status.pending:
        yield Finding("tables", ok=False, text="not up to date; run `tamatar-auth migrate up`")
    else:
        yield Finding("tables", ok=True, text=f"at revision {status.current}")
        reach = examine_partitions(libpq_url(settings.database), settings.sessions.lifetime)
        yield Finding("partitions", ok=True, text=reach[0], is_warning=not reach[1])
