"""Turns and hashes as metrics."""

from collections.abc import Callable, Iterable
from typing import Any

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from tamatar_auth.observability import semconv as names
from tamatar_auth.security.passwords.admission import HashTurns, Observe
from tamatar_auth.security.passwords.thread_pool import Hash


def watch_hashes(meter: Meter) -> Observe:
    """Return what records how long a hash waited and how long it took."""
    waits = _seconds(meter, names.HASH_WAIT, "How long hashes waited for a thread.")
    durations = _seconds(meter, names.HASH_DURATION, "How long hashes took on their thread.")

    def observe(done: Hash[Any]) -> None:
        if done.began is not None:
            waits.record(done.began - done.asked)
            durations.record(done.ended - done.began)

    return observe


def watch_turns(turns: HashTurns, meter: Meter) -> None:
    """Count the turns whenever metrics are read."""

    def count(_options: CallbackOptions) -> Iterable[Observation]:
        load = turns.load
        others = max(0, load.taken - load.hashing - load.waiting)
        yield Observation(load.hashing, {names.TURN_STATE: "hashing"})
        yield Observation(load.waiting, {names.TURN_STATE: "waiting"})
        yield Observation(others, {names.TURN_STATE: "other"})

    def most(_options: CallbackOptions) -> Iterable[Observation]:
        yield Observation(turns.most)

    _turns(meter, names.TURN_COUNT, count, "The turns that calls have taken.")
    _turns(meter, names.TURN_MAX, most, "The turns that there are.")


def _seconds(meter: Meter, name: str, description: str) -> Any:
    return meter.create_histogram(
        name,
        unit="s",
        description=description,
        explicit_bucket_boundaries_advisory=names.HASH_SECONDS,
    )


def _turns(
    meter: Meter,
    name: str,
    callback: Callable[[CallbackOptions], Iterable[Observation]],
    description: str,
) -> None:
    meter.create_observable_up_down_counter(
        name, [callback], unit="{turn}", description=description
    )
