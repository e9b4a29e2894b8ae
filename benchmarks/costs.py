"""Measures what users, sessions and calls cost: `make costs`, `make costs USERS=1000000`.

Prints the bytes of a row with its indexes, and the CPU time and the write-ahead log of each call.
These hardly depend on other load, unlike times. Full pages are not written, so the log is that of
a call between two checkpoints.
"""

import itertools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import uvloop
from pydantic import SecretStr

from benchmarks.calls import GET_USER, PASSWORD, Call, email, session_calls
from benchmarks.client import closed_loop, cycle
from benchmarks.machine import describe_machine
from benchmarks.plan import Load
from benchmarks.processes import cpu_seconds, resident_bytes
from benchmarks.sample_data import load_users, vacuum
from benchmarks.servers import Server, Servers
from tamatar.auth.v1 import session_service_pb2 as pb
from tamatar_auth.config.settings import Settings
from tamatar_auth.embedded.postgres import EmbeddedPostgres
from tamatar_auth.migrator.migrations import Migrations
from tamatar_auth.security.passwords.hasher import PasswordSchemes
from tamatar_auth.security.passwords.peppers import Peppers

BCRYPT_COST = 4
"""A hash of this cost is nearly free, so CreateSession is measured without its hash."""

LOAD = Load(in_flight=8, warm_up=0.0, seconds=5.0)
SPARE_SESSIONS = 100_000
POSTGRES_SETTINGS = {"full_page_writes": "off", "shared_buffers": "256MB", "max_wal_size": "4GB"}

_ROWS = """
SELECT relname, n_live_tup, pg_table_size(relid), pg_indexes_size(relid)
FROM pg_stat_user_tables WHERE relname IN ('users', 'user_profiles') OR relname ~ '^sessions'
"""
_BACKENDS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"


def main(users: int) -> None:
    """Fill a database, make the calls, and print their costs."""
    with tempfile.TemporaryDirectory(prefix="tamatar-costs-") as name:
        folder = Path(name)
        servers = Servers(folder)
        cheap_hash = {"TAMATAR_BCRYPT_COST": str(BCRYPT_COST), "TAMATAR_ENVIRONMENT": "development"}
        servers.settings.update(cheap_hash)
        with EmbeddedPostgres(folder / "postgres", settings=POSTGRES_SETTINGS) as postgres:
            url = postgres.url()
            Migrations(url).upgrade()
            _fill(servers, url, users)
            print(f"{describe_machine(url)}. {users:,} users.\n")
            print("| Table | rows | bytes a row | and its indexes |\n|---|---|---|---|")
            with psycopg.connect(url) as connection:
                for table, rows, heap, indexes in sorted(connection.execute(_ROWS).fetchall()):
                    of_row = f"{heap / max(rows, 1):.0f} | {indexes / max(rows, 1):.0f}"
                    print(f"| {table} | {rows:,} | {of_row} |")
            print(
                "\n| Call | calls | service ms | PostgreSQL ms | log bytes |\n|---|---|---|---|---|"
            )
            with servers.real(url) as server:
                for label, call, numbers in _calls(users):
                    print(_line(url, server, label, call, numbers), flush=True)
                memory = resident_bytes(server.pid) / 2**20
            print(f"\nMemory of the process: {memory:.0f} MB.")


def _fill(servers: Servers, url: str, users: int) -> None:
    keys = SecretStr(servers.settings["TAMATAR_PASSWORD_KEYS"])
    settings = Settings.load(env_file=None, bcrypt_cost=BCRYPT_COST, password_keys=keys)
    password_hash = PasswordSchemes(BCRYPT_COST, Peppers.load(settings.passwords)).hash(PASSWORD)
    load_users(
        url,
        users=users,
        sessions=users + SPARE_SESSIONS,
        password_hash=password_hash,
        report_progress=lambda line: print(line, file=sys.stderr),
    )


def _calls(users: int) -> list[tuple[str, Call, Iterator[int]]]:
    calls, half = session_calls(users), users + SPARE_SESSIONS // 2
    sign_in = Call(
        "/tamatar.auth.v1.SessionService/CreateSession",
        lambda number: pb.CreateSessionRequest(
            email=email(number), password=PASSWORD
        ).SerializeToString(),
        lambda _, encoded: bool(pb.CreateSessionResponse.FromString(encoded).session_token),
    )
    validate = calls["ValidateSession"]
    return [
        ("ValidateSession, first use", validate, cycle(range(users))),
        ("ValidateSession of 100 sessions", validate, itertools.cycle(range(100))),
        ("GetUser", GET_USER, cycle(range(users))),
        ("CreateSession, without its hash", sign_in, cycle(range(users))),
        ("RefreshSession", calls["RefreshSession"], iter(range(users, half))),
        ("RevokeSession", calls["RevokeSession"], iter(range(half, users + SPARE_SESSIONS))),
    ]


def _line(url: str, server: Server, label: str, call: Call, numbers: Iterator[int]) -> str:
    vacuum(url)
    before, log_before = _backend_seconds(url), _log_position(url)
    sample = uvloop.run(closed_loop(server, call, numbers, LOAD))
    log = _log_position(url) - log_before
    spent = sum(seconds - before.get(pid, 0.0) for pid, seconds in _backend_seconds(url).items())
    service = 1000 * (sample.cpu_per_call or 0.0)
    cost = f"{service:.2f} | {1000 * spent / sample.calls:.2f} | {log / sample.calls:,.0f}"
    return f"| {label} | {sample.calls:,} | {cost} |"


def _backend_seconds(url: str) -> dict[int, float]:
    with psycopg.connect(url) as connection:
        own = connection.info.backend_pid
        pids = [pid for (pid,) in connection.execute(_BACKENDS) if pid != own]
    return {pid: cpu_seconds(pid) or 0.0 for pid in pids}


def _log_position(url: str) -> int:
    with psycopg.connect(url) as connection:
        (position,) = connection.execute(
            "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"
        ).fetchone() or (0,)
    return int(position)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)
