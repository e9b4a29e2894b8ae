"""The pool's connections as metrics."""

from collections.abc import Iterable
from typing import cast

from opentelemetry.metrics import CallbackOptions, Meter, Observation
from sqlalchemy import QueuePool
from sqlalchemy.ext.asyncio import AsyncEngine

from tamatar_auth import conventions as names

_POOL = "tamatar_auth"


def watch_pool(engine: AsyncEngine, meter: Meter) -> None:
    """Count the connections whenever metrics are read. It assumes a pool without overflow."""

    def count(_options: CallbackOptions) -> Iterable[Observation]:
        pool = cast("QueuePool", engine.pool)
        yield Observation(pool.checkedout(), {names.POOL_NAME: _POOL, names.POOL_STATE: "used"})
        yield Observation(pool.checkedin(), {names.POOL_NAME: _POOL, names.POOL_STATE: "idle"})

    def most(_options: CallbackOptions) -> Iterable[Observation]:
        yield Observation(cast("QueuePool", engine.pool).size(), {names.POOL_NAME: _POOL})

    meter.create_observable_up_down_counter(
        names.POOL_COUNT,
        [count],
        unit="{connection}",
        description="The connections of the pool that are lent and that rest.",
    )
    meter.create_observable_up_down_counter(
        names.POOL_MAX,
        [most],
        unit="{connection}",
        description="The connections that the pool may hold.",
    )
