"""The choice among the hosts of a URL after the primary was replaced.

A deposed primary reports that it writes, so `target_session_attrs` does not skip it. But each
promotion begins a new timeline, and the newest one is the primary's.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
import structlog

from tamatar_auth.config.database_url import effective_parameters, listed_hosts
from tamatar_auth.storage.driver import limits

PROBE_TIMEOUT = 1.0
"""Seconds in which a host must answer."""

# The timeline of a control file is older until the first checkpoint after a promotion.
_TIMELINE_SQL = """
    SELECT CASE WHEN NOT pg_is_in_recovery()
                THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) END
"""

log = structlog.get_logger(__name__)

Host = Mapping[str, str]
"""The parameters `host`, `hostaddr` and `port` of one host."""


class PrimaryHosts:
    """Remembers for each URL which of its hosts is tried first."""

    def __init__(self) -> None:
        self._arguments: dict[str, dict[str, str]] = {}

    def arguments(self, url: str) -> dict[str, str]:
        """Return the arguments that change the order of the hosts; none before a choice."""
        return self._arguments.get(url, {})

    async def choose(self, url: str) -> None:
        """Try the host with the newest timeline first from now on, if any host has one."""
        hosts = listed_hosts(url)
        if len(hosts) == 1:
            return
        found = await asyncio.gather(*(_timeline(url, host) for host in hosts))
        timelines = [timeline or "" for timeline in found]
        newest = max(range(len(hosts)), key=timelines.__getitem__)
        if not timelines[newest]:
            return
        arguments = _arguments(url, [hosts[newest], *hosts[:newest], *hosts[newest + 1 :]])
        if arguments != self._arguments.get(url):
            self._arguments[url] = arguments
            log.warning("another host is tried first", timeline=timelines[newest], **hosts[newest])


def _arguments(url: str, hosts: Sequence[Host]) -> dict[str, str]:
    names = hosts[0].keys()
    ordered = {name: ",".join(host[name] for host in hosts) for name in names}
    is_shuffled = effective_parameters(url).get("load_balance_hosts") == "random"
    return {**ordered, "load_balance_hosts": "disable"} if is_shuffled else ordered


async def _timeline(url: str, host: Host) -> str | None:
    """Return the timeline of a primary, or None for a standby or a host that does not answer."""
    arguments: dict[str, Any] = {
        **host,
        "application_name": limits.APPLICATION_NAME,
        "connect_timeout": limits.CONNECT_TIMEOUT,
        "target_session_attrs": "any",
    }
    try:
        async with asyncio.timeout(PROBE_TIMEOUT):
            connection = await psycopg.AsyncConnection.connect(url, autocommit=True, **arguments)
            try:
                row = await (await connection.execute(_TIMELINE_SQL)).fetchone()
            finally:
                connection.pgconn.finish()
    except (psycopg.Error, OSError, TimeoutError):
        return None
    timeline: str | None = row[0] if row else None
    return timeline
