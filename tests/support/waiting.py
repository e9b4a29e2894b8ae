"""Waiting for conditions, however busy the machine is."""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import text

from tamatar_auth.storage.database import Database

PATIENCE = 180.0
"""Seconds to wait for what should happen at once. A machine at a load of 40 needs up to a hundred.

Every wait of a test uses this limit. pyproject.toml ends a test after five of them.
"""

PAUSE = 0.02
"""Seconds between two checks."""


def until(condition: Callable[[], Any]) -> Any:
    """Wait for a condition to hold, and return its value."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(PAUSE)
    return found


def rest(seconds: float) -> None:
    """Sleep in short steps, so that a stall of the whole machine hardly counts."""
    for _ in range(round(seconds / PAUSE)):
        time.sleep(PAUSE)


async def eventually(condition: Callable[[], Any], *, within: float = PATIENCE) -> Any:
    """Wait for a condition to hold while the event loop runs, and return its value."""
    deadline = time.monotonic() + within
    while not (found := await _value(condition())):
        assert time.monotonic() < deadline, "the condition never held"
        await asyncio.sleep(PAUSE)
    return found


async def lock_is_waited_for(database: Database) -> int:
    """Return the number of connections of this database that wait for a lock."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with database.read() as db:
        count: int = (await db.connection.execute(waiting)).scalar_one()
    return count


async def _value(found: Any) -> Any:
    return await found if inspect.isawaitable(found) else found
