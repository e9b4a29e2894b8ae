"""Calls that are ended with a failure from outside of their handlers."""

import asyncio

import pytest

from tamatar_auth.errors import ServerBusy, ServiceStopping
from tamatar_auth.errors.storage import StorageTimedOut
from tamatar_auth.interceptors.cancellation import CancellableCall


async def wait_forever():
    await asyncio.Event().wait()


async def started(handler):
    """A call whose handler runs, and the task of the call."""
    calls = asyncio.Queue()

    async def run():
        call = CancellableCall()
        calls.put_nowait(call)
        return await call.run(handler())

    task = asyncio.create_task(run())
    return await calls.get(), task


async def test_cancelled_call_raises_failure_and_nothing_else():
    call, task = await started(wait_forever)
    call.cancel_with(ServiceStopping())

    with pytest.raises(ServiceStopping):
        await task
    assert not task.cancelling()


async def test_call_that_its_caller_cancels_too_ends_as_cancelled():
    call, task = await started(wait_forever)
    call.cancel_with(ServiceStopping())
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_handler_that_swallows_cancellation_may_answer():
    async def stubborn():
        try:
            await wait_forever()
        except asyncio.CancelledError:
            return "late"

    call, task = await started(stubborn)
    call.cancel_with(ServiceStopping())

    assert await task == "late"
    assert not task.cancelling()


async def test_outer_call_that_is_cancelled_raises_its_own_failure():
    inner_calls = asyncio.Queue()

    async def handler():
        inner = CancellableCall()
        inner_calls.put_nowait(inner)
        return await inner.run(wait_forever())

    outer, task = await started(handler)
    inner = await inner_calls.get()
    inner.cancel_with(ServerBusy())
    outer.cancel_with(ServiceStopping())

    with pytest.raises(ServiceStopping):
        await task
    assert not task.cancelling()


async def test_overdue_handler_is_cancelled_until_it_ends():
    cancellations = []

    async def stubborn():
        while len(cancellations) < 3:
            try:
                await wait_forever()
            except asyncio.CancelledError as error:
                cancellations.append(error)
        await wait_forever()

    call, task = await started(stubborn)
    call.cancel_after(0.01, StorageTimedOut)

    with pytest.raises(StorageTimedOut):
        await task
    assert not task.cancelling()
