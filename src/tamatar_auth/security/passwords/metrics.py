"""Metrics of the hash queue."""

from collections.abc import Iterable
from typing import Any

from opentelemetry.metrics import Histogram, Meter, Observation

from tamatar_auth.observability import semconv
from tamatar_auth.observability.instruments import observe_gauge
from tamatar_auth.security.passwords.hash_queue import HashObserver, HashQueue
from tamatar_auth.security.passwords.thread_pool import HashJob


def hash_recorder(meter: Meter) -> HashObserver:
    """Return a function that records how long a hash waited and how long it took."""
    waits = _histogram(meter, semconv.HASH_WAIT, "How long hashes waited for a thread.")
    durations = _histogram(meter, semconv.HASH_DURATION, "How long hashes took on their thread.")

    def observe(job: HashJob[Any]) -> None:
        if job.started_at is not None:
            waits.record(job.started_at - job.queued_at)
            durations.record(job.finished_at - job.started_at)

    return observe


def observe_permits(hash_queue: HashQueue, meter: Meter) -> None:
    """Register the permits of a queue: those in use, by state, and their limit."""

    def count() -> Iterable[Observation]:
        load = hash_queue.load
        others = max(0, load.taken - load.hashing - load.waiting)
        yield Observation(load.hashing, {semconv.HASH_PERMIT_STATE: "hashing"})
        yield Observation(load.waiting, {semconv.HASH_PERMIT_STATE: "waiting"})
        yield Observation(others, {semconv.HASH_PERMIT_STATE: "other"})

    observe_gauge(
        meter,
        semconv.HASH_PERMIT_COUNT,
        count,
        unit="{turn}",
        description="The permits to hash that calls hold.",
    )
    observe_gauge(
        meter,
        semconv.HASH_PERMIT_MAX,
        lambda: hash_queue.capacity,
        unit="{turn}",
        description="The permits to hash that exist.",
    )


def _histogram(meter: Meter, name: str, description: str) -> Histogram:
    return meter.create_histogram(
        name,
        unit="s",
        description=description,
        explicit_bucket_boundaries_advisory=semconv.HASH_SECONDS,
    )
