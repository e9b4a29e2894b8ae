"""Metrics of the connection pools of this process, by the name of the pool."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeAlias, cast

from opentelemetry.metrics import Meter, Observation
from sqlalchemy import QueuePool
from sqlalchemy.ext.asyncio import AsyncEngine

from tamatar_auth.observability import semconv
from tamatar_auth.observability.instruments import observe_gauge


class PoolUsage(NamedTuple):
    """The connections of a pool: in use, idle, and the limit."""

    used: int
    idle: int
    limit: int


Pools: TypeAlias = Mapping[str, Callable[[], PoolUsage]]
"""Functions that count connections, by the name of the pool."""


def engine_pool_usage(engine: AsyncEngine) -> PoolUsage:
    """Count the connections of an engine. It assumes a pool without overflow."""
    pool = cast("QueuePool", engine.pool)
    return PoolUsage(pool.checkedout(), pool.checkedin(), pool.size())


def observe_pools(meter: Meter, pools: Pools) -> None:
    """Register the connections of all pools."""

    def count() -> Iterable[Observation]:
        for name, usage in pools.items():
            used, idle, _ = usage()
            yield Observation(used, {semconv.POOL_NAME: name, semconv.POOL_STATE: "used"})
            yield Observation(idle, {semconv.POOL_NAME: name, semconv.POOL_STATE: "idle"})

    def limit() -> Iterable[Observation]:
        for name, usage in pools.items():
            yield Observation(usage().limit, {semconv.POOL_NAME: name})

    observe_gauge(
        meter,
        semconv.POOL_COUNT,
        count,
        unit="{connection}",
        description="The connections of a pool that are in use and that are idle.",
    )
    observe_gauge(
        meter,
        semconv.POOL_MAX,
        limit,
        unit="{connection}",
        description="The connections that a pool may hold.",
    )
