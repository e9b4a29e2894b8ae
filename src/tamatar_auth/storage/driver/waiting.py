"""Waiting for answers of PostgreSQL, with a check while the server sends nothing."""

from collections.abc import Callable
from typing import TypeVar

from psycopg.abc import PQGen
from psycopg.waiting import Wait, wait_async

Result = TypeVar("Result")


async def wait_for_result(
    gen: PQGen[Result], state: Wait, socket: int, interval: float, on_idle: Callable[[], None]
) -> Result:
    """Run a generator of psycopg, which has yielded `state`, to its end; return its result.

    `on_idle` is called each time the server has sent nothing for `interval` seconds. What it
    raises is raised.
    """
    return await wait_async(_with_check(gen, state, on_idle), socket, interval)


def _with_check(gen: PQGen[Result], state: Wait, on_idle: Callable[[], None]) -> PQGen[Result]:
    # Without `yield from`: a caller that was cancelled may still resume `gen`.
    while True:
        ready = yield state
        if not ready:
            on_idle()
        try:
            state = gen.send(ready)
        except StopIteration as end:
            result: Result = end.value
            return result
