"""Work that other transactions got in the way of is done again, and no other work is."""

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
    """Work that raises these in turn and then has an answer, and how often it ran."""
    runs = []

    async def work():
        runs.append(1)
        if len(runs) <= len(errors):
            raise errors[len(runs) - 1]
        return "done"

    return work, runs


@pytest.mark.parametrize("error", [deadlock(), TransactionConflict()], ids=["deadlock", "conflict"])
async def test_what_was_rolled_back_runs_again(error):
    work, runs = failing(*[error] * (MAX_ATTEMPTS - 1))

    assert await retry_rolled_back(work, within=60) == "done"
    assert len(runs) == MAX_ATTEMPTS


async def test_it_is_given_up_in_the_end():
    work, runs = failing(*[TransactionConflict()] * MAX_ATTEMPTS)

    with pytest.raises(TransactionConflict):
        await retry_rolled_back(work, within=60)
    assert len(runs) == MAX_ATTEMPTS


async def test_what_may_have_been_done_does_not_run_again():
    work, runs = failing(broken())

    with pytest.raises(OperationalError):
        await retry_rolled_back(work, within=60)
    assert len(runs) == 1


async def test_what_takes_too_long_is_told_so():
    with pytest.raises(StorageTimedOut):
        await retry_rolled_back(lambda: asyncio.sleep(60), within=0.01)
