"""The same calls on a large and a small database."""

import uvloop

from benchmarks.bench import Bench
from benchmarks.calls import GET_USER, LIST_USERS, PAGE, Call, session_calls
from benchmarks.client import closed_loop, cycle
from benchmarks.report import Row, at_most
from benchmarks.samples import Sample, median_ratio, p50
from benchmarks.servers import Server

MAX_RATIO = 1.5


def measure_scale(bench: Bench, few: Server) -> list[Row]:
    """Measure a server with few users and one with many in turns, with one call in flight."""
    many, rows = bench.plan.users, []
    for name in ("ListUsers", "GetUser", "ValidateSession"):
        samples: dict[int, list[Sample]] = {bench.plan.few_users: [], many: []}
        bench.report_progress(f"{name} of many users and of few")
        numbers = {users: cycle(range(users - PAGE)) for users in samples}
        for _ in range(bench.plan.rounds):
            for users, server in ((bench.plan.few_users, few), (many, bench.real)):
                loop = closed_loop(server, _call(name, users), numbers[users], bench.plan.load(1))
                samples[users].append(uvloop.run(loop))
        label = f"{name} at {many:,} users / at {bench.plan.few_users:,}, median latency"
        rows.append(
            at_most(
                label, MAX_RATIO, median_ratio(samples[many], samples[bench.plan.few_users], p50)
            )
        )
    return rows


def _call(name: str, users: int) -> Call:
    others = {"ListUsers": LIST_USERS, "GetUser": GET_USER}
    return others.get(name) or session_calls(users)[name]
