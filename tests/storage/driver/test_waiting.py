"""Waiting for results: in parts, while idle, and until the wait fails."""

import asyncio
import socket
import struct

import psycopg
import pytest
import uvloop
from psycopg.waiting import READY_NONE, READY_R, READY_W, WAIT_R, WAIT_W

from tamatar_auth.storage.driver.connection import wait_for_result
from tests.support.waiting import PATIENCE, eventually

SHORT = 0.01


class SilentError(Exception):
    """Raised by an idle check."""


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    ours.settimeout(0)
    with ours, theirs:
        yield ours, theirs


def on_idle():
    pass


async def begun(gen, sock, *, interval=60.0, on_idle=on_idle):
    """Run a generator of psycopg's kind, and return its result."""
    return await wait_for_result(gen, next(gen), sock.fileno(), interval, on_idle)


def parts(sock, many):
    """Read a number of bytes, in as many parts as they arrive in."""
    read = b""
    while len(read) < many:
        assert (yield WAIT_R) == READY_R
        read += sock.recv(65536)
    return read


async def test_result_in_parts_is_returned_whole(pair):
    ours, theirs = pair
    waiting = asyncio.ensure_future(begun(parts(ours, 30), ours))
    for _ in range(3):
        await asyncio.sleep(SHORT)
        assert not waiting.done()
        theirs.send(b"x" * 10)

    assert await waiting == b"x" * 30


async def test_wait_to_write_is_followed_by_wait_to_read(pair):
    ours, theirs = pair

    def asking():
        assert (yield WAIT_W) == READY_W
        ours.send(b"?")
        return (yield from parts(ours, 1))

    waiting = asyncio.ensure_future(begun(asking(), ours))
    assert await asyncio.get_running_loop().run_in_executor(None, theirs.recv, 1) == b"?"
    theirs.send(b"!")
    assert await waiting == b"!"


async def test_idle_wait_calls_idle_check_each_interval(pair):
    ours, theirs = pair
    looks, heard = [], []

    def patient():
        while not (ready := (yield WAIT_R)):
            heard.append(ready)
        return ready

    waiting = asyncio.ensure_future(
        begun(patient(), ours, interval=SHORT, on_idle=lambda: looks.append(1))
    )
    await eventually(lambda: len(looks) >= 3)
    theirs.send(b"x")

    assert await waiting == READY_R
    assert heard == [READY_NONE] * len(looks)


async def test_idle_check_that_raises_ends_the_wait(pair):
    ours, _ = pair

    def refuse():
        raise SilentError

    with pytest.raises(SilentError):
        await begun(parts(ours, 1), ours, interval=SHORT, on_idle=refuse)


async def test_closed_socket_raises_operational_error(pair):
    ours, _ = pair
    gen, descriptor = parts(ours, 1), ours.fileno()
    first = next(gen)
    ours.close()

    with pytest.raises(psycopg.OperationalError):
        await wait_for_result(gen, first, descriptor, 60.0, on_idle)


def test_reset_after_a_part_of_an_answer_is_raised_on_uvloop():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    # Both arrive before the loop polls: uvloop calls a registered reader only once for them.
    theirs.send(b"x")
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()

    async def receive():
        async with asyncio.timeout(PATIENCE):
            await begun(parts(ours, 2), ours, interval=0.1)

    ours.settimeout(0)
    with ours, pytest.raises(psycopg.OperationalError):
        uvloop.run(receive())
