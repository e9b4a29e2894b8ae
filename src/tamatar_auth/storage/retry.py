"""Work that runs again where other transactions got in its way."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import psycopg
from sqlalchemy.exc import DBAPIError

from tamatar_auth.errors.storage import StorageTimedOut, TransactionConflict
from tamatar_auth.storage import sqlstates

MAX_ATTEMPTS = 5

INITIAL_BACKOFF = 0.02
"""Seconds before the second attempt; the backoff doubles each time."""

Result = TypeVar("Result")


async def retry_rolled_back(work: Callable[[], Awaitable[Result]], *, within: float) -> Result:
    """Await work that is one transaction, up to five times where it was rolled back for certain.

    Raise `StorageTimedOut` when all of it takes longer than so many seconds.
    """
    try:
        async with asyncio.timeout(within):
            for attempt in range(MAX_ATTEMPTS - 1):
                try:
                    return await work()
                except (DBAPIError, psycopg.Error, TransactionConflict) as error:
                    if not _rolled_back(error):
                        raise
                await asyncio.sleep(backoff(attempt))
            return await work()
    except TimeoutError:
        raise StorageTimedOut from None


def backoff(attempt: int) -> float:
    """Return the seconds to wait after an attempt that failed; the first has the number 0.

    Jitter takes up to half of it: transactions that collided do not collide again.
    """
    longest: float = INITIAL_BACKOFF * 2**attempt
    return random.uniform(longest / 2, longest)  # noqa: S311 - jitter


def _rolled_back(error: Exception) -> bool:
    return (
        isinstance(error, TransactionConflict) or sqlstates.sqlstate(error) in sqlstates.ROLLED_BACK
    )
