"""Turns and hashes as metrics."""

from collections.abc import Callable, Iterable
from typing import Any

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from tamatar_auth.observability import semconv
from tamatar_auth.security.passwords.admission import HashObserver, HashQueue
from tamatar_auth.security.passwords.thread_pool import HashJob


def hash_recorder(meter: Meter) -> HashObserver:
    """Return what records how long a hash waited and how long it took."""
    waits = _histogram(meter, semconv.HASH_WAIT, "How long hashes waited for a thread.")
    durations = _histogram(meter, semconv.HASH_DURATION, "How long hashes took on their thread.")

    def observe(job: HashJob[Any]) -> None:
        if job.started_at is not None:
            waits.record(job.started_at - job.queued_at)
            durations.record(job.finished_at - job.started_at)

    return observe


def observe_permits(hash_queue: HashQueue, meter: Meter) -> None:
    """Count the turns whenever metrics are read."""

    def count(_options: CallbackOptions) -> Iterable[Observation]:
        load = hash_queue.load
        others = max(0, load.taken - load.hashing - load.waiting)
        yield Observation(load.hashing, {semconv.HASH_PERMIT_STATE: "hashing"})
        yield Observation(load.waiting, {semconv.HASH_PERMIT_STATE: "waiting"})
        yield Observation(others, {semconv.HASH_PERMIT_STATE: "other"})

    def capacity(_options: CallbackOptions) -> Iterable[Observation]:
        yield Observation(hash_queue.capacity)

    _observe_counter(meter, semconv.HASH_PERMIT_COUNT, count, "The turns that calls have taken.")
    _observe_counter(meter, semconv.HASH_PERMIT_MAX, capacity, "The turns that there are.")


def _histogram(meter: Meter, name: str, description: str) -> Any:
    return meter.create_histogram(
        name,
        unit="s",
        description=description,
        explicit_bucket_boundaries_advisory=semconv.HASH_SECONDS,
    )


def _observe_counter(
    meter: Meter,
    name: str,
    callback: Callable[[CallbackOptions], Iterable[Observation]],
    description: str,
) -> None:
    meter.create_observable_up_down_counter(
        name, [callback], unit="{turn}", description=description
    )
