"""What is written is written whole, whoever is cancelled meanwhile."""

import asyncio

import pytest

from tamatar_auth.interceptors.base import ShieldedWrites


class Slow:
    """What takes a response when it is let."""

    def __init__(self):
        self.let, self.taken = asyncio.Event(), []

    async def write(self, message):
        await self.let.wait()
        self.taken.append(message)


async def test_a_cancelled_call_ends_when_its_response_is_written():
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
