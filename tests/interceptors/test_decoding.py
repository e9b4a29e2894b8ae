"""Streams of requests: a read continues after its waiter was cancelled."""

import asyncio

import pytest

from tamatar_auth.interceptors.decoding import _shielded_requests


async def test_cancelled_wait_does_not_cancel_the_read():
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


async def test_requests_are_yielded_in_order():
    async def sent():
        yield b""
        yield b"second"

    assert [request async for request in _shielded_requests(sent())] == [b"", b"second"]
