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

_FIRST_BACKOFF = 0.02  # seconds; doubles each time

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
                backoff = _FIRST_BACKOFF * 2**attempt
                await asyncio.sleep(random.uniform(backoff / 2, backoff))  # noqa: S311 - jitter
            return await work()
    except TimeoutError:
        raise StorageTimedOut from None


def _rolled_back(error: Exception) -> bool:
    return (
        isinstance(error, TransactionConflict) or sqlstates.sqlstate(error) in sqlstates.ROLLED_BACK
    )
