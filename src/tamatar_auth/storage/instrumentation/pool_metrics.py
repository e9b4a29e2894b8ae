"""The connections of this process as metrics, by what they are for."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeAlias, cast

from opentelemetry.metrics import CallbackOptions, Meter, Observation
from sqlalchemy import QueuePool
from sqlalchemy.ext.asyncio import AsyncEngine

from tamatar_auth.observability import semconv as names


class Connections(NamedTuple):
    """How many connections are lent, rest, and may be there."""

    used: int
    idle: int
    most: int


Pools: TypeAlias = Mapping[str, Callable[[], Connections]]
"""What counts the connections, by the names of pools."""


def of_engine(engine: AsyncEngine) -> Connections:
    """Count the connections of an engine. It assumes a pool without overflow."""
    pool = cast("QueuePool", engine.pool)
    return Connections(pool.checkedout(), pool.checkedin(), pool.size())


def watch_pools(meter: Meter, pools: Pools) -> None:
    """Count the connections whenever metrics are read."""

    def count(_options: CallbackOptions) -> Iterable[Observation]:
        for name, counted in pools.items():
            used, idle, _ = counted()
            yield Observation(used, {names.POOL_NAME: name, names.POOL_STATE: "used"})
            yield Observation(idle, {names.POOL_NAME: name, names.POOL_STATE: "idle"})

    def most(_options: CallbackOptions) -> Iterable[Observation]:
        for name, counted in pools.items():
            yield Observation(counted().most, {names.POOL_NAME: name})

    meter.create_observable_up_down_counter(
        names.POOL_COUNT,
        [count],
        unit="{connection}",
        description="The connections of a pool that are lent and that rest.",
    )
    meter.create_observable_up_down_counter(
        names.POOL_MAX,
        [most],
        unit="{connection}",
        description="The connections that a pool may hold.",
    )
