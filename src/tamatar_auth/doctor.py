"""Examines an installation, and says of each part that it is well or what to do."""

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import grpc
import psycopg
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from tamatar_auth.addresses import ListenAddress
from tamatar_auth.maintenance.migrating import Migrations
from tamatar_auth.maintenance.migration_connection import connect
from tamatar_auth.origins import Origins
from tamatar_auth.settings import (
    OperatorError,
    Settings,
    SettingsError,
)
from tamatar_auth.storage.database import libpq_url

OLDEST_POSTGRES = 15
CLOCK_TOLERANCE = 2.0
"""Seconds that the clocks of service and database may differ before it is worth a word."""


class Finding(NamedTuple):
    """What was found of one part."""

    what: str
    ok: bool
    text: str


def examine() -> Sequence[Finding]:
    """Examine settings, database, tables, clock and ports."""
    try:
        settings = Settings.load()
    except SettingsError as error:
        return [Finding("settings", ok=False, text=line) for line in str(error).splitlines()]
    return [*_settings(settings), *_database(settings), *_ports(settings)]


def health(address: ListenAddress, timeout: float) -> str:
    """Ask a server's health: SERVING, NOT_SERVING, or what went wrong."""
    # A server of this machine is not asked by way of a proxy, whatever the environment says.
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(str(address), options=options) as channel:
        stub: Any = HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout)
        except grpc.RpcError as error:
            return f"{address} does not answer ({cast('grpc.Call', error).code().name})"
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def _settings(settings: Settings) -> Iterator[Finding]:
    unknown = Origins(Settings).unknown()
    if unknown:
        yield Finding(
            "settings", ok=False, text=f"not known: {', '.join(unknown)}; check the spelling"
        )
    else:
        yield Finding("settings", ok=True, text=f"all valid, for {settings.environment}")


def _database(settings: Settings) -> Iterator[Finding]:
    if settings.database_url is None:
        text = "TAMATAR_DATABASE_URL is not set; `tamatar-auth serve --dev` brings its own database"
        yield Finding("database", settings.environment == "development", text)
        return
    try:
        with connect(libpq_url(settings)) as connection:
            yield _server(connection)
            yield _clock(connection)
    except OperatorError as error:
        yield Finding("database", ok=False, text=f"{error} Check TAMATAR_DATABASE_URL.")
        return
    yield from _tables(settings)


def _server(connection: psycopg.Connection[Any]) -> Finding:
    info = connection.info
    version = info.server_version // 10000
    if version < OLDEST_POSTGRES:
        text = f"PostgreSQL {version} is too old: {OLDEST_POSTGRES} or newer is needed"
        return Finding("database", ok=False, text=text)
    return Finding("database", ok=True, text=f"PostgreSQL {version} on {info.host}:{info.port}")


def _clock(connection: psycopg.Connection[Any]) -> Finding:
    before = time.time()
    row = connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
    here = (before + time.time()) / 2
    difference = abs((row[0] if row else here) - here)
    ok = difference <= CLOCK_TOLERANCE
    advice = "" if ok else "; validity follows the database's clock: set both by NTP"
    return Finding("clock", ok, f"differs from the database's by {difference:.1f} s{advice}")


def _tables(settings: Settings) -> Iterator[Finding]:
    try:
        status = Migrations(libpq_url(settings)).status()
    except OperatorError as error:
        yield Finding("tables", ok=False, text=str(error))
        return
    if status.pending:
        yield Finding("tables", ok=False, text="not up to date; run `tamatar-auth migrate up`")
    else:
        yield Finding("tables", ok=True, text=f"at revision {status.current}")


def _ports(settings: Settings) -> Iterator[Finding]:
    for address in settings.listen:
        if not address.is_taken:
            yield Finding("port", ok=True, text=f"{address} is free")
            continue
        status = health(address, timeout=2)
        if status in ("SERVING", "NOT_SERVING"):
            text = f"{address} is answered by a server that is {status}"
        else:
            text = f"{status}, but something has it: end that, or set TAMATAR_LISTEN"
        yield Finding("port", status == "SERVING", text)
