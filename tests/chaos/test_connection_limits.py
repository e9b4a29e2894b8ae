"""Connections that misbehave are ended, and those that only look after themselves are not."""

import asyncio
import contextlib
import sys

import pytest

from tamatar_auth.server import app as server
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
    """By how much some times are shorter; those that a test does not wait for are as they are."""
    return {}


@pytest.fixture
async def service(settings, database, monkeypatch, hurried):
    """A server whose limits are ours, but for the times of one kind."""
    hasty = [(name, value // hurried.get(name, 1)) for name, value in server.OPTIONS]
    assert hurried.keys() <= dict(hasty).keys()
    monkeypatch.setattr(server, "OPTIONS", hasty)
    async with run_service(settings) as service:
        yield service


@pytest.fixture
async def connection(service):
    async with Connection.to(str(service.addresses[0])) as connection:
        yield connection


@pytest.mark.parametrize("hurried", [HANDSHAKE])
@pytest.mark.parametrize("said", [b"", PREFACE[:10], b"GET / HTTP/1.1\r\n"])
async def test_who_does_not_begin_as_a_client_does_is_thrown_out(connection, said):
    await connection.say(said)
    async with asyncio.timeout(PATIENCE):
        await connection.ended()


@pytest.mark.parametrize("hurried", [AGREEMENT])
async def test_who_agrees_to_no_settings_is_thrown_out(connection):
    await connection.greet()
    heard = await heard_until_the_end(connection, pings=sys.maxsize, agrees=False)
    assert heard.count(SETTINGS) == 2  # the server's, and that it agrees to the client's


@pytest.mark.parametrize("hurried", [ALIVE])
@pytest.mark.parametrize("pings", [0, 1])
async def test_who_answers_no_ping_any_more_is_thrown_out(connection, pings):
    await connection.greet()
    assert (await heard_until_the_end(connection, pings=pings)).count(PING) == pings + 1


@pytest.mark.parametrize("hurried", [PINGS])
async def test_who_looks_after_a_connection_may_keep_it(connection):
    await connection.greet()
    heard = []
    for _ in range(5):
        await connection.say(frame(PING, payload=bytes(8)))
        # The server has read it, so that the next one does not come together with it.
        heard += await heard_up_to(connection, (PING, ACK))
        await asyncio.sleep(0.5)
    assert GOAWAY not in dict(heard)


async def test_who_pings_all_the_time_is_thrown_out(connection):
    await connection.greet()
    await heard_up_to(connection, (SETTINGS, 0))
    with contextlib.suppress(OSError):  # it was thrown out
        for _ in range(100):
            await connection.say(frame(PING, payload=bytes(8)))
            await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE):  # a GOAWAY may be lost with what the server did not read
        await connection.ended()


async def heard_until_the_end(connection, *, pings, agrees=True):
    """Answer settings and so many pings; return the kinds of frames that came until the end."""
    heard = []
    async with asyncio.timeout(PATIENCE):
        with contextlib.suppress(EOFError, OSError):
            while True:
                kind, flags, _, payload = await connection.hear()
                heard.append(kind)
                if kind == SETTINGS and not flags and agrees:
                    await connection.say(frame(SETTINGS, ACK))
                if kind == PING and heard.count(PING) <= pings:
                    await connection.say(frame(PING, ACK, payload=payload))
    return heard


async def heard_up_to(connection, last):
    """Answer settings and pings until a frame of a kind comes; return all kinds and flags."""
    heard = []
    async with asyncio.timeout(PATIENCE):
        while last not in heard:
            kind, flags, _, payload = await connection.hear()
            heard.append((kind, flags))
            if kind in {PING, SETTINGS} and not flags:
                await connection.say(frame(kind, ACK, payload=payload if kind == PING else b""))
    return heard
