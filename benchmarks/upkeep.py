"""Sweeping, memory and start-up time."""

import asyncio
import statistics
import sys
import time

import uvloop

from benchmarks.bench import Bench
from benchmarks.calls import session_calls
from benchmarks.client import checked_call, cycle, paced
from benchmarks.processes import resident_bytes, running_process, wait_for_success
from benchmarks.report import Row, at_most
from benchmarks.sample_data import add_expired
from benchmarks.samples import BenchmarkError, Sample, p99
from benchmarks.sign_in_load import HEALTH

VALIDATIONS = 200
"""ValidateSession calls a second while expired sessions are removed."""
MIB = 1024 * 1024


def measure_sweep(bench: Bench) -> list[Row]:
    """Remove expired sessions while others are validated."""
    count = bench.plan.expired_sessions
    bench.report_progress(f"adding {count:,} expired sessions")
    add_expired(bench.url, count, bench.plan.users)
    bench.report_progress("sweeping them")
    before, during = uvloop.run(_sweep(bench))
    label = f"ValidateSession p99 while {count:,} sessions are swept / before"
    return [at_most(label, 2, p99(during) / p99(before))]


async def _sweep(bench: Bench) -> tuple[Sample, Sample]:
    validate = session_calls(bench.plan.users)["ValidateSession"]
    stop, numbers = asyncio.Event(), cycle(range(bench.plan.users))
    asyncio.get_running_loop().call_later(max(2, bench.plan.paced_seconds), stop.set)
    before = await paced(bench.real, validate, numbers, rate=VALIDATIONS, until=stop)
    stop.clear()
    output = bench.servers.folder / "sweep"
    variables = bench.servers.settings | {"TAMATAR_DATABASE_URL": bench.url}
    command = [sys.executable, "-m", "tamatar_auth", "sweep"]
    with running_process(
        command, output=output, variables=variables, folder=bench.servers.folder
    ) as process:

        async def sweep() -> None:
            try:
                await asyncio.to_thread(wait_for_success, process, output)
            finally:
                stop.set()

        during, _ = await asyncio.gather(
            paced(bench.real, validate, numbers, rate=VALIDATIONS, until=stop), sweep()
        )
    expected = f"expired sessions: {bench.plan.expired_sessions} removed"
    if expected not in output.read_text():
        raise BenchmarkError(f"the sweep left sessions behind: {output.read_text()[-300:]}")
    return before, during


def measure_memory(bench: Bench) -> list[Row]:
    """Return the memory of the server after all calls."""
    used = resident_bytes(bench.real.pid) / MIB
    label = "resident memory of the server process after the run"
    return [at_most(label, 150, used, unit=" MB", digits=0)]


def measure_start(bench: Bench) -> list[Row]:
    """Start servers, and return the seconds until they serve."""
    seconds = []
    for number in range(bench.plan.starts):
        bench.report_progress(f"start {number + 1} of {bench.plan.starts}")
        began = time.perf_counter()
        with bench.servers.real(bench.url) as server:
            uvloop.run(checked_call(server, HEALTH, 0))
            seconds.append(time.perf_counter() - began)
    median = statistics.median(seconds)
    return [at_most("from the start to SERVING, tables are there", 1.5, median, unit=" s")]
