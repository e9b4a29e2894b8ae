"""Transactions that PostgreSQL rolled back are retried; no other failure is."""

import asyncio

import psycopg
import pytest
from sqlalchemy.exc import OperationalError

from tamatar_auth.errors.storage import StorageTimedOut, TransactionConflict
from tamatar_auth.storage.retry import MAX_ATTEMPTS, retry_rolled_back


def deadlock():
    return OperationalError("", {}, psycopg.errors.DeadlockDetected())


def broken():
    return OperationalError("", {}, psycopg.OperationalError())


def failing(*errors):
    """Return work that raises these errors in turn and then succeeds, and its list of runs."""
    runs = []

    async def work():
        runs.append(1)
        if len(runs) <= len(errors):
            raise errors[len(runs) - 1]
        return "done"

    return work, runs


@pytest.mark.parametrize("error", [deadlock(), TransactionConflict()], ids=["deadlock", "conflict"])
async def test_retry_of_rolled_back_work_runs_it_again(error):
    work, runs = failing(*[error] * (MAX_ATTEMPTS - 1))

    assert await retry_rolled_back(work, within=60) == "done"
    assert len(runs) == MAX_ATTEMPTS


async def test_retry_after_max_attempts_raises():
    work, runs = failing(*[TransactionConflict()] * MAX_ATTEMPTS)

    with pytest.raises(TransactionConflict):
        await retry_rolled_back(work, within=60)
    assert len(runs) == MAX_ATTEMPTS


async def test_retry_of_work_in_doubt_does_not_run_it_again():
    work, runs = failing(broken())

    with pytest.raises(OperationalError):
        await retry_rolled_back(work, within=60)
    assert len(runs) == 1


async def test_retry_past_time_limit_raises_timed_out():
    with pytest.raises(StorageTimedOut):
        await retry_rolled_back(lambda: asyncio.sleep(60), within=0.01)
