"""What comes in a stream is read whole, whoever gives up waiting for it."""

import asyncio

import pytest

from tamatar_auth.interceptors.decoding import _shielded_requests


async def test_a_wait_that_is_cancelled_leaves_the_reading_to_itself():
    come, ended = asyncio.Event(), []

    async def sent():
        try:
            await come.wait()
            yield b"late"
        finally:
            ended.append(come.is_set())

    waiting = asyncio.ensure_future(anext(_shielded_requests(sent())))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    assert ended == []
    come.set()
    await asyncio.sleep(0)


async def test_requests_come_in_their_order_and_end():
    async def sent():
        yield b""
        yield b"second"

    assert [request async for request in _shielded_requests(sent())] == [b"", b"second"]
