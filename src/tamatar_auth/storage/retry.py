"""Work that runs again where other transactions got in its way."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import psycopg
from sqlalchemy.exc import DBAPIError

from tamatar_auth.errors.storage import StorageTimedOut, TransactionConflict
from tamatar_auth.storage import sqlstates as faults

MOST_RUNS = 5

_FIRST_WAIT = 0.02  # seconds; doubles each time

Answer = TypeVar("Answer")


async def settled(work: Callable[[], Awaitable[Answer]], *, within: float) -> Answer:
    """Await work that is one transaction, up to five times where it was rolled back for certain.

    Raise `StorageTimedOut` when all of it takes longer than so many seconds.
    """
    try:
        async with asyncio.timeout(within):
            for run in range(MOST_RUNS - 1):
                try:
                    return await work()
                except (DBAPIError, psycopg.Error, TransactionConflict) as error:
                    if not _rolled_back(error):
                        raise
                wait = _FIRST_WAIT * 2**run
                await asyncio.sleep(random.uniform(wait / 2, wait))  # noqa: S311 - jitter
            return await work()
    except TimeoutError:
        raise StorageTimedOut from None


def _rolled_back(error: Exception) -> bool:
    return isinstance(error, TransactionConflict) or faults.sqlstate(error) in faults.ROLLED_BACK
