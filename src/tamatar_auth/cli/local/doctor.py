"""The command `doctor`: checks each part of an installation, and says how to repair it."""

import asyncio
import stat
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import grpc
import psycopg
import typer

from tamatar_auth.cli.formats import TextFormat, TextOption
from tamatar_auth.cli.local.healthcheck import check_health, tls_files_at
from tamatar_auth.cli.local.partitions import examine_partitions
from tamatar_auth.cli.local.scheduler import uses_autogroups
from tamatar_auth.cli.output import print_json
from tamatar_auth.cli.tables import print_table
from tamatar_auth.config.errors import OperatorError, SettingsError
from tamatar_auth.config.settings import Settings
from tamatar_auth.config.sources import REMOVED_VARIABLES, Sources
from tamatar_auth.migrator.connection import connect
from tamatar_auth.migrator.migrations import Migrations
from tamatar_auth.security.caller_file import read_callers
from tamatar_auth.security.callers import CallerCredentials
from tamatar_auth.security.passwords.peppers import Peppers
from tamatar_auth.security.tls import TlsFiles
from tamatar_auth.server import grpcio_release
from tamatar_auth.server.ports import HEALTH_LISTEN, LISTEN
from tamatar_auth.storage.driver.connect import connector, libpq_url
from tamatar_auth.storage.driver.orphaned_statements import OrphanedStatements
from tamatar_auth.storage.driver.pooler import find_pooler_problem
from tamatar_auth.storage.repositories.diagnostics import READ_ONLY_REASON

CLOCK_TOLERANCE = 2.0
"""Seconds that the clocks of service and database may differ."""

EXPIRY_WARNING = timedelta(days=14)
"""The remaining lifetime of a token or a certificate below which the doctor complains."""


class Finding(NamedTuple):
    """The result of one check."""

    subject: str
    ok: bool
    text: str
    is_warning: bool = False
    """Whether the part works, but is a risk."""

    @property
    def label(self) -> str:
        """The level as it is printed."""
        return "FAIL" if not self.ok else "warn" if self.is_warning else "ok"


def doctor(*, output: TextOption = TextFormat.TEXT) -> None:
    """Check the installation. Exit with 1 if a check fails. Warnings do not count.

    The checks cover settings, password keys, grpcio, callers, certificate, database, clock, tables,
    partitions and ports.
    """
    findings = examine()
    rows = [(each.label, each.subject, each.text) for each in findings]
    if output is TextFormat.JSON:
        names = ("level", "subject", "text")
        print_json({"findings": [dict(zip(names, row, strict=True)) for row in rows]})
    else:
        print_table((), rows)
    raise typer.Exit(0 if all(each.ok for each in findings) else 1)


def examine() -> Sequence[Finding]:
    """Run every check. Wrong settings end the checks, because the others depend on them."""
    try:
        settings = Settings.load()
    except SettingsError as error:
        return [Finding("settings", ok=False, text=line) for line in str(error).splitlines()]
    return [
        *_settings(settings),
        _passwords(settings),
        _grpcio(),
        *_scheduler(),
        *_callers(settings),
        *_certificate(settings),
        *_database(settings),
        *_ports(settings),
    ]


def _settings(settings: Settings) -> Iterator[Finding]:
    unknown, removed = Sources(Settings).unknown(), Sources(Settings).removed()
    yield from (Finding("settings", ok=False, text=str(each)) for each in unknown)
    for variable, place in removed:
        instead = REMOVED_VARIABLES[variable.upper()]
        yield Finding("settings", ok=False, text=f"{variable} ({place}) was removed: {instead}")
    if not unknown and not removed:
        yield Finding("settings", ok=True, text=f"all valid, for {settings.environment}")


def _passwords(settings: Settings) -> Finding:
    try:
        newest = Peppers.load(settings.passwords).newest_id
    except SettingsError as error:
        return Finding("passwords", ok=False, text=str(error))
    return Finding("passwords", ok=True, text=f"new ones are hashed with the key {newest}")


def _grpcio() -> Finding:
    installed, tried = grpc.__version__, grpcio_release.TRIED
    if grpcio_release.is_tried():
        return Finding("grpcio", ok=True, text=f"{installed}, as tried")
    text = f"{installed} was not tried and makes calls slower: install grpcio {tried}"
    return Finding("grpcio", ok=False, text=text)


def _scheduler() -> Iterator[Finding]:
    if uses_autogroups():
        text = (
            "kernel.sched_autogroup_enabled is on: if PostgreSQL runs on this machine, validations"
            " wait while others sign in; set it to 0, or use control groups (systemd, containers)"
        )
        yield Finding("scheduler", ok=True, text=text, is_warning=True)


def _callers(settings: Settings) -> Iterator[Finding]:
    path = settings.callers_file
    if path is None:
        text = "none configured: every caller on this machine is an admin"
        yield _risk_in_production(settings, "callers", text, "set TAMATAR_CALLERS_FILE")
        return
    try:
        known = read_callers(path).known
        is_open = bool(path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH))
    except (OperatorError, OSError) as error:
        yield Finding("callers", ok=False, text=str(error))
        return
    if is_open:
        yield Finding("callers", ok=False, text=f"other users can write to {path}: run chmod go-w")
    expiring = [text for credentials in known for text in _expiring_tokens(credentials)]
    yield from (Finding("callers", ok=False, text=text) for text in expiring)
    if not expiring:
        yield Finding("callers", ok=True, text=f"{len(known)} in {path}")


def _expiring_tokens(credentials: CallerCredentials) -> Iterator[str]:
    end = max(credentials.tokens.values(), default=None)
    if end is not None and end - datetime.now(UTC) < EXPIRY_WARNING:
        name, when = credentials.caller.name, end.astimezone(UTC)
        yield (
            f"the last token of {name} ends at {when:%Y-%m-%d %H:%M} UTC;"
            f" run `tamatar-auth caller rotate {name}`"
        )


def _certificate(settings: Settings) -> Iterator[Finding]:
    files = TlsFiles.find(settings.tls)
    if files is None:
        text = "none configured: calls are not encrypted"
        advice = "set TAMATAR_TLS_CERTIFICATE_FILE and TAMATAR_TLS_KEY_FILE, or use a unix socket"
        if all(address.path for address in settings.listen):
            yield Finding("certificate", ok=True, text="none needed by unix sockets")
        else:
            yield _risk_in_production(settings, "certificate", text, advice)
        return
    try:
        end = files.read().leaf.not_valid_after_utc
    except OperatorError as error:
        yield Finding("certificate", ok=False, text=str(error))
        return
    ok = end - datetime.now(UTC) >= EXPIRY_WARNING
    advice = "" if ok else "; renew it, the server reloads it without a restart"
    yield Finding("certificate", ok, f"valid until {end:%Y-%m-%d %H:%M} UTC{advice}")


def _risk_in_production(settings: Settings, subject: str, text: str, advice: str) -> Finding:
    if settings.environment == "development":
        return Finding(subject, ok=True, text=text)
    return Finding(subject, ok=True, text=f"{text}; {advice}", is_warning=True)


def _database(settings: Settings) -> Iterator[Finding]:
    if settings.database.url is None:
        text = "TAMATAR_DATABASE_URL is not set; `tamatar-auth serve --dev` starts a database"
        yield Finding("database", ok=True, text=text)
        return
    try:
        with connect(libpq_url(settings.database)) as connection:
            yield _postgres(connection)
            yield _clock(connection)
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


def _ports(settings: Settings) -> Iterator[Finding]:
    health_listen = () if settings.health_listen is None else (settings.health_listen,)
    for address in (*settings.listen, *health_listen):
        if not address.is_taken:
            yield Finding("port", ok=True, text=f"{address} is free")
            continue
        status = check_health(address, timeout=2, tls=tls_files_at(settings, address))
        if status in ("SERVING", "NOT_SERVING"):
            text = f"{address} is answered by a server that is {status}"
        else:
            setting = LISTEN if address in settings.listen else HEALTH_LISTEN
            text = f"{status}, but another process uses it: stop that process, or set {setting}"
        yield Finding("port", status == "SERVING", text)
