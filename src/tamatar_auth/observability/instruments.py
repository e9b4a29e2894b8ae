"""Metric instruments whose values are read when metrics are collected."""

from collections.abc import Callable, Iterable
from typing import TypeAlias

from opentelemetry.metrics import CallbackOptions, Meter, Observation

Reading: TypeAlias = Callable[[], float | Iterable[Observation]]
"""Returns the value of an instrument, or one observation for each set of attributes."""


def observe_gauge(meter: Meter, name: str, read: Reading, *, unit: str, description: str) -> None:
    """Register an amount that rises and falls, such as the calls in flight.

    It is an up-down counter: the amounts of several processes add up.
    """
    meter.create_observable_up_down_counter(
        name, [_callback(read)], unit=unit, description=description
    )


def observe_counter(meter: Meter, name: str, read: Reading, *, unit: str, description: str) -> None:
    """Register a count that only rises."""
    meter.create_observable_counter(name, [_callback(read)], unit=unit, description=description)


def _callback(read: Reading) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        reading = read()
        return [Observation(reading)] if isinstance(reading, (int, float)) else reading

    return observe
