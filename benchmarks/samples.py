"""Samples of calls, and statistics over several samples."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass


class BenchmarkError(Exception):
    """The benchmark cannot continue. The message has the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The calls of one measurement."""

    latencies: Sequence[float]
    """Seconds of each call after the warm-up, sorted."""
    seconds: float
    calls: int
    """All calls, including those of the warm-up."""
    cpu: float | None = None
    """Seconds of CPU time that the server spent on all calls, or None if unknown."""

    @property
    def rate(self) -> float:
        """Calls a second."""
        return len(self.latencies) / self.seconds

    @property
    def cpu_per_call(self) -> float | None:
        """Seconds of CPU time that the server spent on a call."""
        return None if self.cpu is None else self.cpu / self.calls

    def percentile(self, fraction: float) -> float:
        """Return the latency that this fraction of the calls does not exceed."""
        if not self.latencies:
            raise BenchmarkError("not one call was answered")
        last = len(self.latencies) - 1
        return self.latencies[min(last, int(fraction * len(self.latencies)))]


def median(samples: Iterable[Sample], figure: Callable[[Sample], float]) -> float:
    """Return the median of a figure."""
    return statistics.median(map(figure, samples))


def median_ratio(
    ours: Sequence[Sample], base: Sequence[Sample], figure: Callable[[Sample], float]
) -> float:
    """Return the median of the ratios of the rounds."""
    return statistics.median(figure(one) / figure(two) for one, two in zip(ours, base, strict=True))


def rate(sample: Sample) -> float:
    """Return the calls a second of a sample."""
    return sample.rate


def p50(sample: Sample) -> float:
    """Return the median latency of a sample."""
    return sample.percentile(0.5)


def p99(sample: Sample) -> float:
    """Return the latency that one call of a hundred exceeds."""
    return sample.percentile(0.99)
