"""A long run of random calls, of which many are cancelled: does anything grow?

python -m tests.chaos.soak 30    for 30 minutes
"""

import asyncio
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import grpc
import psycopg

from tests.chaos.soak_calls import Crowd
from tests.chaos.soak_chart import chart
from tests.support.commands import IMPATIENT, ROOT, Server, serving
from tests.support.databases import TEMPLATE, Postgres, TestServer

CALLERS = 24
CANCELLED = 0.3
"""The share of calls that are cancelled."""

MOST_GROWTH = 0.05
"""The allowed growth of memory after the warm-up."""
WARM_UP = 0.3
"""The share of the run in which allocators, caches and pools fill."""
SPREAD = 3
"""The allowed difference of connections and files, because some are replaced."""
IMPROPER = {grpc.StatusCode.UNKNOWN.name, grpc.StatusCode.INTERNAL.name}

CHART = ROOT / "build" / "soak.svg"


class Sample(NamedTuple):
    """The resources in use by the server."""

    seconds: float
    memory: float
    """MiB."""
    files: int
    connections: int
    idle: int
    """Abandoned open transactions."""
    calls: int


def main(minutes: float) -> int:
    """Run; return the exit status."""
    postgres = TestServer()
    try:
        database = Postgres(postgres.url()).create("soak", TEMPLATE)
        samples, statuses = _soaked(database, minutes * 60)
    finally:
        postgres.stop()
    CHART.parent.mkdir(exist_ok=True)
    CHART.write_text(chart(samples))
    print(f"\nHow the calls ended: {dict(statuses.most_common())}")
    problems = [*found(samples), *(f"calls ended {name}" for name in IMPROPER & set(statuses))]
    for line in problems or ["Nothing grew."]:
        print(line)
    print(f"Chart: {CHART.relative_to(ROOT)}")
    return 1 if problems else 0


def found(samples: Sequence[Sample]) -> Iterator[str]:
    """Yield what grew after the warm-up."""
    warm = [each for each in samples if each.seconds >= samples[-1].seconds * WARM_UP]
    third = max(1, len(warm) // 3)
    parts = warm[:third], warm[-third:]
    before, after = (median(each.memory for each in part) for part in parts)
    growth = after / before - 1
    print(f"Memory after the warm-up: {before:.1f} MiB, at the end {after:.1f} ({growth:+.1%}).")
    if growth > MOST_GROWTH:
        yield f"Memory grew by {growth:.1%}."
    for name in ("files", "connections"):
        before, after = (median(getattr(each, name) for each in part) for part in parts)
        if after - before > SPREAD:
            yield f"There were {before:g} {name}, and {after:g} at the end."
    if any(each.idle for each in samples):
        yield "Transactions were left open."


def _soaked(database: str, seconds: float) -> tuple[Sequence[Sample], Counter[str]]:
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
        free.close()
        given = {
            "TAMATAR_DATABASE_URL": database,
            "TAMATAR_LISTEN": address,
            "TAMATAR_LOG_LEVEL": "error",  # otherwise every sign-in writes a line
        }
        with serving(limits=IMPATIENT, cwd=Path(folder), **given) as server:
            return asyncio.run(_run(server, address, database, seconds))


async def _run(
    server: Server, address: str, database: str, seconds: float
) -> tuple[Sequence[Sample], Counter[str]]:
    statuses: Counter[str] = Counter()
    async with grpc.aio.insecure_channel(address) as channel:
        await asyncio.wait_for(channel.channel_ready(), 30)
        crowd = await Crowd.gathered(channel)
        callers = [asyncio.create_task(_call(crowd, statuses)) for _ in range(CALLERS)]
        samples = await _watched(server, database, seconds, statuses)
        for caller in callers:
            caller.cancel()
        ended = await asyncio.gather(*callers, return_exceptions=True)
    gave_up = [each for each in ended if not isinstance(each, asyncio.CancelledError)]
    assert not gave_up, gave_up
    return samples, statuses


async def _call(crowd: Crowd, statuses: Counter[str]) -> None:
    """Make calls until the end, and cancel some of them."""
    while True:
        call = crowd.call()
        if random.random() < CANCELLED:
            await asyncio.wait(
                {asyncio.ensure_future(call.code())}, timeout=random.expovariate(200)
            )
            call.cancel()
        code = await call.code()
        statuses[code.name] += 1
        if code is grpc.StatusCode.OK:
            crowd.remember(await call)


async def _watched(
    server: Server, database: str, seconds: float, statuses: Counter[str]
) -> Sequence[Sample]:
    pause = max(1.0, seconds / 120)
    began, samples = time.monotonic(), list[Sample]()
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        while (now := time.monotonic() - began) < seconds:
            samples.append(await _sample(server, connection, now, statuses.total()))
            print(_line(samples[-1]), flush=True)
            await asyncio.sleep(pause)
    return samples


async def _sample(
    server: Server, connection: "psycopg.AsyncConnection[tuple[int, int]]", now: float, calls: int
) -> Sample:
    found = await connection.execute(
        "SELECT count(*), count(*) FILTER (WHERE state LIKE 'idle in transaction%'"
        " AND state_change < now() - interval '3 seconds') FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND backend_type = 'client backend'"
    )
    connections, idle = await found.fetchone() or (0, 0)
    process = Path(f"/proc/{server.process.pid}")
    memory = int((process / "status").read_text().partition("VmRSS:")[2].split()[0]) / 1024
    files = len([*(process / "fd").iterdir()])
    return Sample(now, memory, files, connections, idle, calls)


def _line(sample: Sample) -> str:
    return (
        f"{sample.seconds:7.0f} s  {sample.memory:7.1f} MiB  {sample.files:4} files"
        f"  {sample.connections:3} connections  {sample.idle} left open  {sample.calls:9,} calls"
    )


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
