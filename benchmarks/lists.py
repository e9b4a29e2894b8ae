"""Lists and counts of many users: `make bench SCALE=10m`.

Prints the rows of docs/reference/lists.md, and the calls that touch the most pages, of all
combinations of conditions and orders. The repository makes the calls, with the server's settings.
"""

import asyncio
import itertools
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import psycopg
from pydantic import SecretStr
from sqlalchemy.exc import DBAPIError

from benchmarks.list_calls import DEEP, ROWS, filters, label_of
from benchmarks.list_data import load_listed_users
from benchmarks.machine import describe_machine
from benchmarks.report import table
from benchmarks.statements import SETTINGS
from tamatar_auth.config.settings import Settings
from tamatar_auth.embedded.postgres import EmbeddedPostgres
from tamatar_auth.migrator.migrations import Migrations
from tamatar_auth.storage.database import Database, Scope
from tamatar_auth.storage.engine import create_engine
from tamatar_auth.storage.repositories import KeysetCursor
from tamatar_auth.storage.repositories.user_filters import UserFilter, UserOrder

POSTGRES_SETTINGS = SETTINGS | {
    "shared_buffers": "1GB",
    "maintenance_work_mem": "512MB",
    "max_wal_size": "8GB",
    "autovacuum": "off",
}
PAGE, ROUNDS, WORST = 51, 5, 8
"""Users of a page with the one that shows whether more follow, calls of a row, rows of a table."""


UserCall: TypeAlias = Callable[[Scope], Awaitable[Any]]

Counters: TypeAlias = "psycopg.Connection[tuple[Any, ...]]"
"""The connection that reads the statistics of statements."""


class Cost(NamedTuple):
    """The cost of a call: seconds, and pages of 8 KiB that PostgreSQL touched."""

    seconds: float
    pages: int
    answer: Any


def measure_lists(users: int) -> None:
    """Fill a database, or use the one in `FOLDER`, and print the tables."""
    began = time.monotonic()

    def report_progress(line: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {line}", flush=True)

    with tempfile.TemporaryDirectory(prefix="tamatar-bench-") as temporary:
        folder = Path(os.environ.get("FOLDER") or temporary)
        with EmbeddedPostgres(folder / "postgres", settings=POSTGRES_SETTINGS) as postgres:
            url = postgres.url()
            Migrations(url).upgrade()
            if _is_empty(url):
                load_listed_users(url, users, report_progress)
            report_progress("measuring")
            print(f"\n{describe_machine(url)}. {users:,} users.\n")
            asyncio.run(_measure(url, report_progress))
    kept = f"The data is kept in {folder}." if os.environ.get("FOLDER") else "The data is removed."
    report_progress(kept)


async def _measure(url: str, report_progress: Callable[[str], None]) -> None:
    settings = Settings.load(env_file=None, database_url=SecretStr(url))
    database = Database(create_engine(settings.database))
    try:
        with psycopg.connect(url, autocommit=True) as counters:
            await _print_rows(database, counters)
            await _print_worst(database, counters, report_progress)
            _print_indexes(counters)
    finally:
        await database.close()


async def _print_rows(database: Database, counters: Counters) -> None:
    cells = []
    for label, matching, order, is_deep in ROWS:
        page = _page_call(matching, order, DEEP[order.column] if is_deep else None)
        costs = [await _cost(database, counters, page) for _ in range(ROUNDS)]
        count = await _cost(database, counters, _count_call(matching))
        cells.append((label, *_figures(costs), *_figures([count]), _total(count)))
    header = ("Page", "cold ms", "warm ms", "pages", "rows", "total ms", "", "pages", "", "total")
    kept = [0, 1, 2, 3, 4, 5, 7, 9]
    print(table([header[at] for at in kept], [[row[at] for at in kept] for row in cells]))


def _page_call(matching: UserFilter, order: UserOrder, after: KeysetCursor | None) -> UserCall:
    return lambda db: db.user_lists.page(matching, order, size=PAGE, after=after)


def _count_call(matching: UserFilter) -> UserCall:
    return lambda db: db.user_lists.count(matching)


def _stats_call(matching: UserFilter) -> UserCall:
    return lambda db: db.user_lists.stats(matching)


def _figures(costs: Sequence[Cost]) -> Sequence[str]:
    cold, warm = costs[0], min(costs, key=lambda cost: cost.seconds)
    if isinstance(cold.answer, DBAPIError):
        return ("timed out", "", str(cold.pages), "")
    rows = getattr(cold.answer, "rows", ())
    return (
        f"{cold.seconds * 1e3:.1f}",
        f"{warm.seconds * 1e3:.1f}",
        f"{cold.pages:,}",
        str(min(len(rows), PAGE - 1)),
    )


def _total(count: Cost) -> str:
    if isinstance(count.answer, DBAPIError):
        return ""
    return f"{'~' if count.answer.is_estimate else ''}{count.answer.number:,}"


async def _print_worst(
    database: Database, counters: Counters, report_progress: Callable[[str], None]
) -> None:
    orders = [
        UserOrder(column, descending)
        for column in ("created_at", "updated_at", "email")
        for descending in (False, True)
    ]
    pages, counts, stats = [], [], []
    for matching in filters():
        for order, after in itertools.product(orders, (False, True)):
            call = _page_call(matching, order, DEEP[order.column] if after else None)
            label = f"{label_of(matching)}; {order.column}{' desc' * order.descending}"
            pages.append((label, await _cost(database, counters, call)))
        counts.append(
            (
                label_of(matching),
                await _cost(database, counters, _count_call(matching)),
            )
        )
        stats.append(
            (
                label_of(matching),
                await _cost(database, counters, _stats_call(matching)),
            )
        )
        if len(counts) % 30 == 0:
            report_progress(f"measured {len(counts)} filters in all orders")
    for name, costs in {"pages": pages, "totals": counts, "GetUserStats": stats}.items():
        timed_out = sum(isinstance(cost.answer, Exception) for _, cost in costs)
        print(f"\nThe worst {name} of {len(costs):,}; {timed_out} timed out:\n")
        worst = sorted(costs, key=lambda it: it[1].pages, reverse=True)[:WORST]
        rows = [(label, f"{it.pages:,}", f"{it.seconds * 1e3:.0f}") for label, it in worst]
        print(table((name, "pages of 8 KiB", "ms"), rows))


async def _cost(database: Database, counters: Counters, call: UserCall) -> Cost:
    counters.execute("SELECT pg_stat_statements_reset()")
    began = time.perf_counter()
    answer: Any
    try:
        async with database.snapshot() as db:
            answer = await call(db)
    except DBAPIError as error:
        answer = error
    seconds = time.perf_counter() - began
    pages = counters.execute(
        "SELECT sum(shared_blks_hit + shared_blks_read) FROM pg_stat_statements"
    ).fetchone()
    return Cost(seconds, int(pages[0] or 0) if pages else 0, answer)


def _print_indexes(counters: Counters) -> None:
    rows = counters.execute(
        "SELECT indexrelname, pg_relation_size(indexrelid)"
        " / (SELECT reltuples FROM pg_class WHERE oid = relid)"
        " FROM pg_stat_user_indexes WHERE relname = 'users' ORDER BY 2 DESC"
    ).fetchall()
    print()
    print(table(("Index of users", "bytes a user"), [(name, f"{size:.1f}") for name, size in rows]))


def _is_empty(url: str) -> bool:
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT 1 FROM users LIMIT 1").fetchone() is None
