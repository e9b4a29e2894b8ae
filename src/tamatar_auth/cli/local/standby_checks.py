"""The doctor's check of the standbys that are read."""

from collections.abc import Iterator
from typing import Any

import psycopg

from tamatar_auth.cli.local.finding import Finding
from tamatar_auth.config.database import DatabaseSettings
from tamatar_auth.storage.driver.connect import libpq_url, standby_settings

LAG_TOLERANCE = 16 * 2**20
"""Bytes of WAL that a standby may not have replayed yet."""

_PRIMARY = """
    SELECT system_identifier, CAST(pg_current_wal_flush_lsn() AS text) FROM pg_control_system()
"""

# In the order in which they are to be repaired.
_STANDBY = """
    SELECT CASE WHEN system_identifier <> %(cluster)s THEN 'belongs to another cluster'
                WHEN current_database() <> %(database)s THEN 'is another database'
                WHEN NOT pg_is_in_recovery() THEN 'is no standby: use target_session_attrs=standby'
                WHEN current_setting('default_transaction_isolation') <> 'read committed'
                THEN 'must have default_transaction_isolation = ''read committed'''
           END,
           CAST(%(position)s::pg_lsn - pg_last_wal_replay_lsn() AS bigint)
    FROM pg_control_system()
"""


def check_standby(
    settings: DatabaseSettings, primary: "psycopg.Connection[Any]"
) -> Iterator[Finding]:
    """Check one of the standbys, if `TAMATAR_STANDBY_DATABASE_URL` is set."""
    replicas = standby_settings(settings)
    if replicas is None:
        return
    try:
        row = primary.execute(_PRIMARY).fetchone()
        with psycopg.connect(libpq_url(replicas), connect_timeout=5) as standby:
            cluster, position = row or (0, "0/0")
            values = {"cluster": cluster, "position": position, "database": primary.info.dbname}
            problem, lag = standby.execute(_STANDBY, values).fetchone() or ("is gone", 0)
            where = f"{standby.info.host}:{standby.info.port}"
    except psycopg.Error as error:
        reason = " ".join(str(error).split())[:300]
        text = f"cannot be checked: {reason} Check TAMATAR_STANDBY_DATABASE_URL."
        yield Finding("standby", ok=False, text=text)
        return
    if problem:
        yield Finding("standby", ok=False, text=f"{where} {problem}")
    else:
        lag = max(lag or 0, 0)
        is_late = lag > LAG_TOLERANCE
        advice = ": validations read the primary until it catches up" if is_late else ""
        text = f"{where} is {lag / 2**20:.1f} MiB behind{advice}"
        yield Finding("standby", ok=True, text=text, is_warning=is_late)
