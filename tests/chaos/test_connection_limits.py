"""Connections that misbehave are closed, and connections that only send keepalives are not."""

import asyncio
import contextlib
import sys

import pytest

from tamatar_auth.server import build
from tamatar_auth.server.app import run_service
from tests.chaos.http2_frames import (
    ACK,
    GOAWAY,
    PING,
    PREFACE,
    SETTINGS,
    Connection,
    frame,
)
from tests.support.waiting import PATIENCE

HANDSHAKE = {"grpc.server_handshake_timeout_ms": 20}
AGREEMENT = {"grpc.http2.settings_timeout": 20}
ALIVE = {"grpc.keepalive_time_ms": 60, "grpc.http2.ping_timeout_ms": 5}
PINGS = {"grpc.http2.min_ping_interval_without_data_ms": 20}


@pytest.fixture
def hurried():
    """The divisors of some times; other times stay as they are."""
    return {}


@pytest.fixture
async def service(settings, database, monkeypatch, hurried):
    """A server with our limits, except for the shortened times."""
    hasty = [(name, value // hurried.get(name, 1)) for name, value in build.OPTIONS]
    assert hurried.keys() <= dict(hasty).keys()
    monkeypatch.setattr(build, "OPTIONS", hasty)
    async with run_service(settings) as service:
        yield service


@pytest.fixture
async def connection(service):
    async with Connection.to(str(service.addresses[0])) as connection:
        yield connection


@pytest.mark.parametrize("hurried", [HANDSHAKE])
@pytest.mark.parametrize("first_bytes", [b"", PREFACE[:10], b"GET / HTTP/1.1\r\n"])
async def test_connection_without_http2_preface_is_closed(connection, first_bytes):
    await connection.send(first_bytes)
    async with asyncio.timeout(PATIENCE):
        await connection.ended()


@pytest.mark.parametrize("hurried", [AGREEMENT])
async def test_connection_that_acknowledges_no_settings_is_closed(connection):
    await connection.greet()
    frames = await frames_until_end(connection, pings=sys.maxsize, agrees=False)
    assert frames.count(SETTINGS) == 2  # the server's own, and its acknowledgement of the client's


@pytest.mark.parametrize("hurried", [ALIVE])
@pytest.mark.parametrize("pings", [0, 1])
async def test_connection_that_answers_no_ping_is_closed(connection, pings):
    await connection.greet()
    assert (await frames_until_end(connection, pings=pings)).count(PING) == pings + 1


@pytest.mark.parametrize("hurried", [PINGS])
async def test_connection_with_moderate_pings_stays_open(connection):
    await connection.greet()
    frames = []
    for _ in range(5):
        await connection.send(frame(PING, payload=bytes(8)))
        # The server has read the ping, so the next one does not arrive together with it.
        frames += await frames_up_to(connection, (PING, ACK))
        await asyncio.sleep(0.5)
    assert GOAWAY not in dict(frames)


async def test_connection_with_constant_pings_is_closed(connection):
    await connection.greet()
    await frames_up_to(connection, (SETTINGS, 0))
    with contextlib.suppress(OSError):  # the connection is closed
        for _ in range(100):
            await connection.send(frame(PING, payload=bytes(8)))
            await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE):  # a GOAWAY may be lost with unread data
        await connection.ended()


async def frames_until_end(connection, *, pings, agrees=True):
    """Acknowledge settings and some pings; return the kinds of frames until the end."""
    frames = []
    async with asyncio.timeout(PATIENCE):
        with contextlib.suppress(EOFError, OSError):
            while True:
                kind, flags, _, payload = await connection.receive()
                frames.append(kind)
                if kind == SETTINGS and not flags and agrees:
                    await connection.send(frame(SETTINGS, ACK))
                if kind == PING and frames.count(PING) <= pings:
                    await connection.send(frame(PING, ACK, payload=payload))
    return frames


async def frames_up_to(connection, last):
    """Acknowledge settings and pings until a frame of a kind comes; return kinds and flags."""
    frames = []
    async with asyncio.timeout(PATIENCE):
        while last not in frames:
            kind, flags, _, payload = await connection.receive()
            frames.append((kind, flags))
            if kind in {PING, SETTINGS} and not flags:
                await connection.send(frame(kind, ACK, payload=payload if kind == PING else b""))
    return frames
