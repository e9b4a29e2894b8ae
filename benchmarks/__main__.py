"""Measures the service beside an empty handler: `make bench`, `make bench QUICK=1`.

`make bench SCALE=10m` measures lists and counts of that many users instead.

Both share this machine with PostgreSQL and the load generators, and take turns. So the ratios
are more reliable than the figures. Prints tables; nothing is asserted.
"""

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import psycopg
from pydantic import SecretStr

from benchmarks import h2load
from benchmarks.bench import Bench
from benchmarks.calls import PASSWORD
from benchmarks.chart import Series, draw_chart
from benchmarks.lists import measure_lists
from benchmarks.machine import autogroup_warning, describe_machine
from benchmarks.plan import FULL, QUICK, Plan
from benchmarks.processes import ROOT
from benchmarks.report import lines, targets_table
from benchmarks.sample_data import load_users
from benchmarks.samples import BenchmarkError
from benchmarks.scale import measure_scale
from benchmarks.servers import BCRYPT_COST, Servers
from benchmarks.sign_in_load import measure_sign_ins
from benchmarks.single_calls import measure_single_calls
from benchmarks.statements import SETTINGS
from benchmarks.throughput import Throughput
from benchmarks.upkeep import measure_memory, measure_start, measure_sweep
from tamatar_auth.config.errors import OperatorError
from tamatar_auth.config.settings import Settings
from tamatar_auth.embedded.postgres import EmbeddedPostgres
from tamatar_auth.migrator.migrations import Migrations
from tamatar_auth.security.passwords.hasher import PasswordSchemes
from tamatar_auth.security.passwords.peppers import Peppers

CHART = ROOT / "build" / "bench.svg"
POSTGRES_SETTINGS = SETTINGS | {"shared_buffers": "256MB", "max_wal_size": "4GB"}


def main() -> int:
    """Measure and print; return the exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    # gRPC's core writes lines of its own to stderr.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        if scale := os.environ.get("SCALE", ""):
            measure_lists(_users_of(scale))
            return 0
        h2load.require()
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        measure(FULL if os.environ.get("QUICK", "") in {"", "0"} else QUICK)
    except (BenchmarkError, OperatorError) as error:
        print(f"The benchmark ended early: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def measure(plan: Plan) -> None:
    """Fill a database, measure everything, print it and draw the chart."""
    began = time.monotonic()

    def report_progress(line: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {line}", file=sys.stderr, flush=True)

    if advice := autogroup_warning():
        print(advice, file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="tamatar-bench-") as name:
        folder = Path(name)
        with EmbeddedPostgres(folder / "postgres", settings=POSTGRES_SETTINGS) as postgres:
            report_progress(f"PostgreSQL {postgres.version} is ready")
            servers = Servers(folder)
            many, few = _databases(postgres)
            _fill(servers, plan, many=many, few=few, report_progress=report_progress)
            hardware = describe_machine(many)
            with servers.empty() as empty, servers.real(many) as real:
                _measure(Bench(plan, servers, many, empty, real, report_progress), few, hardware)
    report_progress("done")


def _measure(bench: Bench, few: str, hardware: str) -> None:
    throughput = Throughput(bench)
    throughput.run()
    calls = measure_single_calls(bench)
    rows = [*throughput.rows(), *measure_sign_ins(bench)]
    with bench.servers.real(few) as small:
        rows += measure_scale(bench, small)
    rows += [*measure_sweep(bench), *measure_memory(bench), *measure_start(bench)]
    size = f"{bench.plan.users:,} users and as many sessions"
    print(
        f"{hardware}. {size}. Medians of {bench.plan.rounds} rounds of {bench.plan.seconds:g} s.\n"
    )
    print(targets_table(rows))
    print(f"\nBy {h2load.PROCESSES} processes of h2load, each with a token of its own:\n")
    print(lines(throughput.lines()))
    print("\nBy the client for Python, each call about another session or user:\n")
    print(lines(calls))
    levels = throughput.levels
    series = [
        Series(
            "empty handler",
            "#9aa5b1",
            {in_flight: level.empty for in_flight, level in levels.items()},
        ),
        Series(
            "ValidateSession",
            "#d1495b",
            {in_flight: level.ours for in_flight, level in levels.items()},
        ),
    ]
    CHART.parent.mkdir(exist_ok=True)
    CHART.write_text(draw_chart(series, f"{hardware}; {size}"))
    print(f"\nThe chart is {CHART.relative_to(ROOT)}.")


def _users_of(scale: str) -> int:
    """Return the number of users of a scale such as 100k, 1m or 10m."""
    digits, unit = scale.lower().rstrip("km"), scale.lower().lstrip("0123456789")
    if not digits.isdigit() or unit not in {"", "k", "m"}:
        raise BenchmarkError(f"SCALE must be a number such as 100k, 1m or 10m, not {scale}")
    return int(digits) * {"": 1, "k": 1_000, "m": 1_000_000}[unit]


def _databases(postgres: EmbeddedPostgres) -> tuple[str, str]:
    """Create the tables in two databases, and return their URLs."""
    urls = postgres.url(), postgres.url("few_users")
    with psycopg.connect(urls[0], autocommit=True) as connection:
        connection.execute("CREATE DATABASE few_users")
    for url in urls:
        Migrations(url).upgrade()
    return urls


def _fill(
    servers: Servers, plan: Plan, *, many: str, few: str, report_progress: Callable[[str], None]
) -> None:
    keys = SecretStr(servers.settings["TAMATAR_PASSWORD_KEYS"])
    settings = Settings.load(env_file=None, bcrypt_cost=BCRYPT_COST, password_keys=keys)
    password_hash = PasswordSchemes(BCRYPT_COST, Peppers.load(settings.passwords)).hash(PASSWORD)
    load_users(
        many,
        users=plan.users,
        sessions=plan.users + plan.spare_sessions,
        password_hash=password_hash,
        report_progress=report_progress,
    )
    load_users(
        few,
        users=plan.few_users,
        sessions=plan.few_users,
        password_hash=password_hash,
        report_progress=report_progress,
    )


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Handle SIGTERM as Ctrl-C, so that every process is terminated."""
    del signum, frame
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
