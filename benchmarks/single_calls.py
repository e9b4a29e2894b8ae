"""Several calls, driven by the client for Python with 32 in flight."""

from collections.abc import Iterator

import uvloop

from benchmarks.bench import Bench
from benchmarks.calls import EMPTY, GET_USER, Call, session_calls
from benchmarks.client import closed_loop, cycle
from benchmarks.report import Line
from benchmarks.samples import BenchmarkError, Sample, median_ratio, rate
from benchmarks.servers import Server
from benchmarks.statements import Statements

IN_FLIGHT = 32


def measure_single_calls(bench: Bench) -> list[Line]:
    """Measure the baseline and each call in turns, and return a line for each."""
    calls, plan = session_calls(bench.plan.users), bench.plan
    half = plan.users + plan.spare_sessions // 2
    numbers: list[tuple[Call, Iterator[int]]] = [
        (calls["ValidateSession"], cycle(range(plan.users))),
        (GET_USER, cycle(range(plan.users))),
        (calls["RefreshSession"], _once(range(plan.users, half))),
        (calls["RevokeSession"], _once(range(half, plan.users + plan.spare_sessions))),
    ]
    baseline: list[Sample] = []
    samples: dict[str, list[Sample]] = {call.name: [] for call, _ in numbers}
    spent = dict.fromkeys(samples, Statements())
    for number in range(plan.rounds):
        bench.report_progress(f"client for Python, round {number + 1} of {plan.rounds}")
        baseline.append(_run(bench, bench.empty, EMPTY, cycle(range(plan.users))))
        for call, call_numbers in numbers:
            before = Statements.read(bench.url)
            samples[call.name].append(_run(bench, bench.real, call, call_numbers))
            more = Statements.read(bench.url).since(before)
            spent[call.name] = spent[call.name].plus(more)
    lines = [Line("empty handler", IN_FLIGHT, baseline)]
    for name, call_samples in samples.items():
        count = sum(sample.calls for sample in call_samples)
        ratio = median_ratio(call_samples, baseline, rate)
        statements, trips = spent[name].all / count, spent[name].round_trips / count
        label = f"{name}, any token" if name == "ValidateSession" else name
        lines.append(Line(label, IN_FLIGHT, call_samples, ratio, statements, trips))
    return lines


def _run(bench: Bench, server: Server, call: Call, numbers: Iterator[int]) -> Sample:
    return uvloop.run(closed_loop(server, call, numbers, bench.plan.load(IN_FLIGHT)))


def _once(numbers: range) -> Iterator[int]:
    yield from numbers
    raise BenchmarkError("there are too few spare sessions for this fast machine")
