"""ValidateSession beside the empty handler, driven by h2load at several concurrencies."""

from dataclasses import dataclass, field

import uvloop

from benchmarks.bench import Bench
from benchmarks.calls import BATCH, EMPTY, Call, session_calls, with_requirements
from benchmarks.client import checked_call
from benchmarks.collector import SAMPLING_RATIO, running_collector
from benchmarks.h2load import PROCESSES, drive
from benchmarks.report import Line, Row, at_least, at_most
from benchmarks.samples import BenchmarkError, Sample, median_ratio, p50, rate
from benchmarks.servers import Server
from benchmarks.statements import Statements

TARGET_LEVELS = (32, 256)
"""The numbers of calls in flight that have targets."""


@dataclass(slots=True)
class Level:
    """The samples at one number of calls in flight, round by round."""

    empty: list[Sample] = field(default_factory=list)
    ours: list[Sample] = field(default_factory=list)
    own: list[Sample] = field(default_factory=list)
    """The empty handler on the server of the service."""
    required: list[Sample] = field(default_factory=list)
    """ValidateSession with a level and an age."""
    traced: list[Sample] = field(default_factory=list)
    batch: list[Sample] = field(default_factory=list)
    statements: Statements = field(default_factory=Statements)

    @property
    def calls(self) -> int:
        """The calls that made the statements."""
        return sum(sample.calls for sample in self.ours)


class Throughput:
    """The rounds and their results."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        calls = session_calls(bench.plan.users)
        self._validate, self._batch = calls["ValidateSession"], calls["BatchValidateSessions"]
        self._required = with_requirements(self._validate)
        step = bench.plan.users // PROCESSES
        self._numbers = range(0, step * PROCESSES, step)
        self._sizes: dict[tuple[str, str], list[int]] = {}
        self.levels = {count: Level() for count in bench.plan.in_flight}

    def run(self) -> None:
        """Measure baseline and service in turns."""
        bench = self._bench
        with (
            running_collector() as collector,
            bench.servers.real(bench.url, **collector.settings) as traced_server,
            bench.servers.empty("own") as own,
        ):
            for number in range(bench.plan.rounds):
                for in_flight, level in self.levels.items():
                    bench.report_progress(
                        f"h2load, round {number + 1} of {bench.plan.rounds}, {in_flight} in flight"
                    )
                    self._round(in_flight, level, traced_server, own)
        traced = sum(each.calls for level in self.levels.values() for each in level.traced)
        if not SAMPLING_RATIO / 2 < collector.calls / traced < SAMPLING_RATIO * 2:
            raise BenchmarkError(f"{collector.calls} of {traced} calls were traced")

    def _round(self, in_flight: int, level: Level, traced: Server, own: Server) -> None:
        level.empty.append(self._drive(self._bench.empty, EMPTY, in_flight))
        before = Statements.read(self._bench.url)
        level.ours.append(self._drive(self._bench.real, self._validate, in_flight))
        spent = Statements.read(self._bench.url).since(before)
        level.statements = level.statements.plus(spent)
        if in_flight in TARGET_LEVELS:
            level.required.append(self._drive(self._bench.real, self._required, in_flight))
            level.own.append(self._drive(own, EMPTY, in_flight))
            level.traced.append(self._drive(traced, self._validate, in_flight))
        if in_flight == TARGET_LEVELS[0]:
            level.batch.append(self._drive(self._bench.real, self._batch, in_flight))

    def _drive(self, server: Server, call: Call, in_flight: int) -> Sample:
        key = server.address, call.path
        if key not in self._sizes:
            self._sizes[key] = [
                len(uvloop.run(checked_call(server, call, number))) for number in self._numbers
            ]
        return drive(
            server,
            call,
            self._bench.plan.load(in_flight),
            numbers=self._numbers,
            answer_bytes=self._sizes[key],
        )

    def rows(self) -> list[Row]:
        """Return the figures that have targets."""
        one, most = self.levels[1], self.levels[TARGET_LEVELS[-1]]
        first = self.levels[TARGET_LEVELS[0]]
        rows = []
        for in_flight in TARGET_LEVELS:
            level = self.levels[in_flight]
            label = f"ValidateSession / empty handler, calls a second, {in_flight} in flight"
            rows.append(at_least(label, 0.75, median_ratio(level.ours, level.empty, rate)))
        for in_flight in TARGET_LEVELS:
            level = self.levels[in_flight]
            label = f"the same with metrics and 1 % of calls traced, {in_flight} in flight"
            rows.append(at_least(label, 0.60, median_ratio(level.traced, level.empty, rate)))
        for in_flight in TARGET_LEVELS:
            level = self.levels[in_flight]
            label = f"ValidateSession with requirements / without, {in_flight} in flight"
            rows.append(at_least(label, 0.97, median_ratio(level.required, level.ours, rate)))
        many = median_ratio(first.batch, first.ours, rate) * BATCH
        return [
            *rows,
            at_most(
                "ValidateSession / empty handler, median latency, 1 in flight",
                3,
                median_ratio(one.ours, one.empty, p50),
            ),
            at_most(
                "statements a ValidateSession, 256 in flight",
                0.1,
                most.statements.all / most.calls,
                digits=3,
            ),
            at_most(
                "statements that write, a ValidateSession, 256 in flight",
                0,
                most.statements.writing / most.calls,
                digits=3,
            ),
            at_least(
                "BatchValidateSessions of 100 / ValidateSession, sessions a second, 32 in flight",
                8,
                many,
            ),
        ]

    def lines(self) -> list[Line]:
        """Return a line for each call."""
        lines = []
        for in_flight, level in self.levels.items():
            ours, calls = median_ratio(level.ours, level.empty, rate), level.calls
            trips, each = level.statements.round_trips / calls, level.statements.all / calls
            lines.append(Line("empty handler", in_flight, level.empty))
            lines.append(Line("ValidateSession", in_flight, level.ours, ours, each, trips))
            if level.own:
                ratio = median_ratio(level.own, level.empty, rate)
                lines.append(Line("empty handler on our own server", in_flight, level.own, ratio))
            for name, samples in (
                ("with requirements", level.required),
                ("with telemetry", level.traced),
                ("batch of 100", level.batch),
            ):
                if samples:
                    ratio = median_ratio(samples, level.empty, rate)
                    lines.append(Line(f"ValidateSession, {name}", in_flight, samples, ratio))
        return lines
