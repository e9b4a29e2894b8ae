"""Shielded writes: a response is written whole although its call is cancelled."""

import asyncio

import pytest

from tamatar_auth.interceptors.base import ShieldedWrites


class Slow:
    """A stream that accepts a response when a test releases it."""

    def __init__(self):
        self.let, self.taken = asyncio.Event(), []

    async def write(self, message):
        await self.let.wait()
        self.taken.append(message)


async def test_cancelled_write_ends_after_response_is_written():
    slow = Slow()
    writing = asyncio.ensure_future(ShieldedWrites(slow).write(b"last"))
    await asyncio.sleep(0)

    writing.cancel()
    await asyncio.sleep(0.01)
    assert not writing.done()
    slow.let.set()

    with pytest.raises(asyncio.CancelledError):
        await writing
    assert slow.taken == [b"last"]
