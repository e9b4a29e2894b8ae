"""Sweeping, memory and the start."""

import asyncio
import statistics
import sys
import time

import uvloop

from benchmarks.bench import Bench
from benchmarks.calls import session_calls
from benchmarks.client import answer, cycle, paced
from benchmarks.loading import add_expired
from benchmarks.processes import finished, resident_bytes, started
from benchmarks.report import Row, at_most
from benchmarks.samples import BenchmarkError, Sample, p99
from benchmarks.signing_in import HEALTH

VALIDATIONS = 200
"""ValidateSession calls a second while expired sessions are removed."""
MIB = 1024 * 1024


def sweeping(bench: Bench) -> list[Row]:
    """Remove expired sessions while others are validated."""
    count = bench.plan.expired_sessions
    bench.say(f"adding {count:,} expired sessions")
    add_expired(bench.url, count, bench.plan.users)
    bench.say("sweeping them")
    before, meanwhile = uvloop.run(_sweep(bench))
    what = f"ValidateSession p99 while {count:,} sessions are swept / before"
    return [at_most(what, 2, p99(meanwhile) / p99(before))]


async def _sweep(bench: Bench) -> tuple[Sample, Sample]:
    validate = session_calls(bench.plan.users)["ValidateSession"]
    over, numbers = asyncio.Event(), cycle(range(bench.plan.users))
    asyncio.get_running_loop().call_later(max(2, bench.plan.storm), over.set)
    before = await paced(bench.real, validate, numbers, rate=VALIDATIONS, until=over)
    over.clear()
    output = bench.servers.folder / "sweep"
    given = bench.servers.settings | {"TAMATAR_DATABASE_URL": bench.url}
    command = [sys.executable, "-m", "tamatar_auth", "sweep"]
    with started(command, output=output, given=given, folder=bench.servers.folder) as process:

        async def sweep() -> None:
            try:
                await asyncio.to_thread(finished, process, output)
            finally:
                over.set()

        meanwhile, _ = await asyncio.gather(
            paced(bench.real, validate, numbers, rate=VALIDATIONS, until=over), sweep()
        )
    told = f"expired sessions: {bench.plan.expired_sessions} removed"
    if told not in output.read_text():
        raise BenchmarkError(f"not all was swept: {output.read_text()[-300:]}")
    return before, meanwhile


def memory(bench: Bench) -> list[Row]:
    """Tell the memory of the server that all calls went to."""
    used = resident_bytes(bench.real.pid) / MIB
    what = "resident memory of the server process after the run"
    return [at_most(what, 150, used, unit=" MB", digits=0)]


def starting(bench: Bench) -> list[Row]:
    """Start servers, and tell how long it takes until they serve."""
    seconds = []
    for number in range(bench.plan.starts):
        bench.say(f"start {number + 1} of {bench.plan.starts}")
        began = time.perf_counter()
        with bench.servers.real(bench.url) as server:
            uvloop.run(answer(server, HEALTH, 0))
            seconds.append(time.perf_counter() - began)
    median = statistics.median(seconds)
    return [at_most("from the start to SERVING, tables are there", 1.5, median, unit=" s")]
