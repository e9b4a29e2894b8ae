"""Waiting for answers: in parts, in vain, and until they fail."""

import asyncio
import socket

import psycopg
import pytest
from psycopg.waiting import READY_NONE, READY_R, READY_W, WAIT_R, WAIT_W

from tamatar_auth.storage.driver.waiting import wait_for_result
from tests.support.waiting import eventually

SHORT = 0.01


class SilentError(Exception):
    """What a look raises."""


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    ours.settimeout(0)
    with ours, theirs:
        yield ours, theirs


def on_idle():
    pass


async def begun(gen, sock, *, interval=60.0, on_idle=on_idle):
    """Wait for what a generator of psycopg's kind returns."""
    return await wait_for_result(gen, next(gen), sock.fileno(), interval, on_idle)


def parts(sock, many):
    """Read so many bytes, in as many parts as they come in."""
    read = b""
    while len(read) < many:
        assert (yield WAIT_R) == READY_R
        read += sock.recv(65536)
    return read


async def test_an_answer_in_parts_is_whole(pair):
    ours, theirs = pair
    waiting = asyncio.ensure_future(begun(parts(ours, 30), ours))
    for _ in range(3):
        await asyncio.sleep(SHORT)
        assert not waiting.done()
        theirs.send(b"x" * 10)

    assert await waiting == b"x" * 30


async def test_what_is_to_be_sent_first_is_waited_for_too(pair):
    ours, theirs = pair

    def asking():
        assert (yield WAIT_W) == READY_W
        ours.send(b"?")
        return (yield from parts(ours, 1))

    waiting = asyncio.ensure_future(begun(asking(), ours))
    assert await asyncio.get_running_loop().run_in_executor(None, theirs.recv, 1) == b"?"
    theirs.send(b"!")
    assert await waiting == b"!"


async def test_whenever_nothing_was_heard_it_is_looked_up(pair):
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


async def test_what_the_look_raises_is_raised(pair):
    ours, _ = pair

    def refuse():
        raise SilentError

    with pytest.raises(SilentError):
        await begun(parts(ours, 1), ours, interval=SHORT, on_idle=refuse)


async def test_a_closed_socket_is_a_lost_connection(pair):
    ours, _ = pair
    gen, descriptor = parts(ours, 1), ours.fileno()
    first = next(gen)
    ours.close()

    with pytest.raises(psycopg.OperationalError):
        await wait_for_result(gen, first, descriptor, 60.0, on_idle)
