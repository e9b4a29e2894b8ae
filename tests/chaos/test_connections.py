"""Connections that misbehave are ended, and those that only look after themselves are not."""

import asyncio
import contextlib
import sys

import pytest

from tamatar_auth import server
from tamatar_auth.server import running
from tests.chaos.frames import (
    ACK,
    GOAWAY,
    PING,
    PREFACE,
    SETTINGS,
    Connection,
    frame,
)

HASTE = 20
"""By how much the times of the tested server are shorter than those of ours."""

IN_MILLISECONDS = ("_ms", "_timeout")


@pytest.fixture
async def service(settings, database, monkeypatch):
    """A server whose limits are ours, with all times shorter."""
    hasty = [
        (name, value // HASTE if name.endswith(IN_MILLISECONDS) else value)
        for name, value in server.OPTIONS
    ]
    monkeypatch.setattr(server, "OPTIONS", hasty)
    async with running(settings) as service:
        yield service


@pytest.fixture
async def connection(service):
    async with Connection.to(str(service.addresses[0])) as connection:
        yield connection


@pytest.mark.parametrize("said", [b"", PREFACE[:10], b"GET / HTTP/1.1\r\n"])
async def test_who_does_not_begin_as_a_client_does_is_thrown_out(connection, said):
    await connection.say(said)
    async with asyncio.timeout(10):
        await connection.ended()


async def test_who_agrees_to_no_settings_is_thrown_out(connection):
    await connection.greet()
    heard = await heard_until_the_end(connection, pings=sys.maxsize, agrees=False)
    assert heard.count(SETTINGS) == 2  # the server's, and that it agrees to the client's


@pytest.mark.parametrize("pings", [0, 1])
async def test_who_answers_no_ping_any_more_is_thrown_out(connection, pings):
    await connection.greet()
    assert (await heard_until_the_end(connection, pings=pings)).count(PING) == pings + 1


async def test_who_looks_after_a_connection_may_keep_it(connection):
    heard = await pinging(connection, times=5, pause=10 / HASTE)
    assert heard.count((PING, ACK)) == 5
    assert GOAWAY not in dict(heard)


async def test_who_pings_all_the_time_is_thrown_out(connection):
    await pinging(connection, times=100, pause=0)
    async with asyncio.timeout(10):  # a GOAWAY may be lost with what the server did not read
        await connection.ended()


async def heard_until_the_end(connection, *, pings, agrees=True):
    """Answer settings and so many pings; return the kinds of frames that came until the end."""
    heard = []
    async with asyncio.timeout(20):
        with contextlib.suppress(EOFError, OSError):
            while True:
                kind, flags, _, payload = await connection.hear()
                heard.append(kind)
                if kind == SETTINGS and not flags and agrees:
                    await connection.say(frame(SETTINGS, ACK))
                if kind == PING and heard.count(PING) <= pings:
                    await connection.say(frame(PING, ACK, payload=payload))
    return heard


async def pinging(connection, *, times, pause):
    """Ping, with pauses; return the kinds and flags of all frames that came meanwhile."""
    heard = []

    async def listen():
        with contextlib.suppress(EOFError, OSError):
            while True:
                kind, flags, _, payload = await connection.hear()
                heard.append((kind, flags))
                if kind in {PING, SETTINGS} and not flags:
                    await connection.say(frame(kind, ACK, payload=payload if kind == PING else b""))

    await connection.greet()
    listening = asyncio.create_task(listen())
    for _ in range(times):
        with contextlib.suppress(OSError):  # it was thrown out
            await connection.say(frame(PING, payload=bytes(8)))
        await asyncio.sleep(pause)
    await asyncio.wait({listening}, timeout=0.5)
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    return heard
