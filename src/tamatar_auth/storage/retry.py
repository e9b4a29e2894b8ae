"""Retries of work whose transaction was rolled back because of other transactions."""

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

RETRIED_ERRORS = (DBAPIError, psycopg.Error, TransactionConflict)
"""The errors that `was_rolled_back` judges."""

Result = TypeVar("Result")


async def retry_rolled_back(work: Callable[[], Awaitable[Result]], *, within: float) -> Result:
    """Run work that is one transaction, up to five times while it is rolled back for certain.

    Return its result. Raise `StorageTimedOut` after `within` seconds in all.
    """
    try:
        async with asyncio.timeout(within):
            for attempt in range(MAX_ATTEMPTS - 1):
                try:
                    return await work()
                except RETRIED_ERRORS as error:
                    if not was_rolled_back(error):
                        raise
                await asyncio.sleep(backoff(attempt))
            return await work()
    except TimeoutError:
        raise StorageTimedOut from None


def backoff(attempt: int) -> float:
    """Return the seconds to wait after a failed attempt; the first attempt has the number 0.

    Jitter of up to half keeps transactions that collided from colliding again.
    """
    longest: float = INITIAL_BACKOFF * 2**attempt
    return random.uniform(longest / 2, longest)  # noqa: S311 - jitter


def was_rolled_back(error: Exception) -> bool:
    """Return whether a transaction was rolled back for certain, so that it may run again."""
    return isinstance(error, TransactionConflict) or sqlstates.was_rolled_back(error)
