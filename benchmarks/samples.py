"""What was measured in one go, and what several of them say together."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass


class BenchmarkError(Exception):
    """The benchmark cannot go on; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Calls that were made in one go."""

    latencies: Sequence[float]
    """Seconds of each call after the warm-up, in order of size."""
    seconds: float
    calls: int
    """All calls, those of the warm-up too."""
    cpu: float | None = None
    """Seconds of processor time that the server spent on all calls; None if it is not told."""

    @property
    def rate(self) -> float:
        """Calls a second."""
        return len(self.latencies) / self.seconds

    @property
    def cpu_per_call(self) -> float | None:
        """Seconds of processor time that the server spent on a call."""
        return None if self.cpu is None else self.cpu / self.calls

    def percentile(self, fraction: float) -> float:
        """Give the latency that this part of the calls does not exceed."""
        if not self.latencies:
            raise BenchmarkError("not one call was answered")
        last = len(self.latencies) - 1
        return self.latencies[min(last, int(fraction * len(self.latencies)))]


def median(samples: Iterable[Sample], figure: Callable[[Sample], float]) -> float:
    """Give the median of a figure."""
    return statistics.median(map(figure, samples))


def median_ratio(
    ours: Sequence[Sample], base: Sequence[Sample], figure: Callable[[Sample], float]
) -> float:
    """Give the median of the ratios of the rounds, each of which measured both."""
    return statistics.median(figure(one) / figure(two) for one, two in zip(ours, base, strict=True))


def rate(sample: Sample) -> float:
    """Give the calls a second of a sample."""
    return sample.rate


def p50(sample: Sample) -> float:
    """Give the latency in the middle of a sample."""
    return sample.percentile(0.5)


def p99(sample: Sample) -> float:
    """Give the latency that one call of a hundred exceeds."""
    return sample.percentile(0.99)
