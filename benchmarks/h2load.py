"""Drives a server with h2load, which needs much less CPU than a client in Python.

Each process of h2load sends one body again and again. Several processes run at once, each with
a token of its own, and with one connection for each 100 calls in flight.
"""

import contextlib
import re
import shutil
import struct
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.calls import Call
from benchmarks.plan import Load
from benchmarks.processes import cpu_seconds, running_process, wait_for_success
from benchmarks.samples import BenchmarkError, Sample
from benchmarks.servers import Server

PROCESSES = 8
_STREAMS_PER_CONNECTION = 100
_PREFIX_BYTES = 5
"""Bytes of the gRPC prefix of a message."""
_SIZE_TOLERANCE = 8
"""Bytes by which the responses about a session may differ, because of their timestamps."""
_DEADLINE_SECONDS = 10
"""The deadline of each call: real clients send one, and the server sets a timer for it."""


def require() -> None:
    """Raise `BenchmarkError` if h2load is missing."""
    if shutil.which("h2load") is None:
        raise BenchmarkError(
            "h2load is missing: install nghttp2-client (Debian, Ubuntu) or nghttp2 (Homebrew)."
        )


@dataclass(frozen=True, slots=True)
class H2loadSummary:
    """The summary of a process of h2load."""

    requests: int
    failed: int
    data: int
    """Bytes of the responses. A gRPC error has none."""

    @classmethod
    def read(cls, text: str) -> "H2loadSummary":
        """Parse the output of h2load, or raise `BenchmarkError`."""
        requests = re.search(r"^requests: .*?(\d+) done, (\d+) succeeded", text, re.MULTILINE)
        data = re.search(r"^traffic: .*\((\d+)\) data$", text, re.MULTILINE)
        if requests is None or data is None:
            raise BenchmarkError(f"the output of h2load could not be parsed:\n{text[-500:]}")
        done, succeeded = int(requests[1]), int(requests[2])
        return cls(done, done - succeeded, int(data[1]))


def drive(
    server: Server, call: Call, load: Load, *, numbers: Sequence[int], answer_bytes: Sequence[int]
) -> Sample:
    """Keep a number of calls in flight, or raise `BenchmarkError` if some fail.

    `answer_bytes` are the sizes of the correct responses for `numbers`. Errors have no bytes, so
    they show in the sum.
    """
    count = min(PROCESSES, load.in_flight, len(numbers))
    before = cpu_seconds(server.pid)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folders = [Path(name, str(place)) for place in range(count)]
        running = []
        for place, folder in enumerate(folders):
            share = load.in_flight // count + (place < load.in_flight % count)
            command = _command(server, call, replace(load, in_flight=share), folder)
            folder.mkdir()
            (folder / "body").write_bytes(framed(call.request(numbers[place])))
            running.append(stack.enter_context(running_process(command, output=folder / "output")))
        for process, folder in zip(running, folders, strict=True):
            wait_for_success(process, folder / "output")
        after = cpu_seconds(server.pid)
        for size, folder in zip(answer_bytes, folders, strict=False):
            check(call, H2loadSummary.read((folder / "output").read_text()), size)
        logs = [(folder / "log").read_text() for folder in folders]
    cpu = None if before is None or after is None else after - before
    return sample(logs, warm_up=load.warm_up, cpu=cpu)


def framed(message: bytes) -> bytes:
    """Return a message with its gRPC prefix."""
    return b"\0" + struct.pack(">I", len(message)) + message


def sample(logs: Sequence[str], *, warm_up: float, cpu: float | None = None) -> Sample:
    """Combine the logs of concurrent processes: start, status and duration of each call."""
    rows = [tuple(map(int, line.split("\t")[::2])) for log in logs for line in log.splitlines()]
    if not rows:
        raise BenchmarkError("not one call was answered")
    first = min(began for began, _ in rows) + int(warm_up * 1e6)
    last = max(began + took for began, took in rows)
    counted = sorted(took / 1e6 for began, took in rows if began + took >= first)
    return Sample(latencies=counted, seconds=(last - first) / 1e6, calls=len(rows), cpu=cpu)


def check(call: Call, summary: H2loadSummary, answer_bytes: int) -> None:
    """Raise `BenchmarkError` if calls failed or the responses have the wrong size."""
    expected = summary.requests * (_PREFIX_BYTES + answer_bytes)
    # Timestamps differ by a few bytes from call to call.
    allowed = max(summary.requests * _SIZE_TOLERANCE, expected // 50) if answer_bytes else 0
    if summary.failed or abs(expected - summary.data) > allowed:
        raise BenchmarkError(
            f"{call.name}: {summary.failed} of {summary.requests} calls failed, and"
            f" {summary.data} bytes came where {expected} are right"
        )


def _command(server: Server, call: Call, load: Load, folder: Path) -> list[str]:
    connections = -(-load.in_flight // _STREAMS_PER_CONNECTION)
    return [
        *("h2load", "-D", f"{int((load.warm_up + load.seconds) * 1000)}ms"),
        *("-c", str(connections), "-m", str(-(-load.in_flight // connections))),
        *("-d", str(folder / "body"), "--log-file", str(folder / "log")),
        *("-H", "content-type: application/grpc", "-H", "te: trailers"),
        *("-H", f"grpc-timeout: {_DEADLINE_SECONDS}S"),
        f"http://{server.address}{call.path}",
    ]
