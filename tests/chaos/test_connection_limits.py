"""Connections that misbehave are closed, and connections that only send keepalives are not."""

import asyncio
import contextlib
import sys
from datetime import timedelta

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from tamatar_auth.interceptors import request_receipt
from tamatar_auth.interceptors.stream_limits import (
    OPEN_STREAMS,
    OPEN_STREAMS_PER_CONNECTION,
    StreamLimitInterceptor,
)
from tamatar_auth.server import build, connections
from tamatar_auth.server.app import run_service
from tamatar_auth.servicers.health import NOT_SERVING, SERVING
from tests.chaos.hostile import NO_SESSION, VALIDATE, WATCH
from tests.chaos.http2_frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PING,
    PREFACE,
    SETTINGS,
    Connection,
    frame,
    header_bomb,
    headers,
    message,
)
from tests.support.settings import changed
from tests.support.waiting import PATIENCE, eventually

HANDSHAKE = {"grpc.server_handshake_timeout_ms": 20}
AGREEMENT = {"grpc.http2.settings_timeout": 20}
ALIVE = {"grpc.keepalive_time_ms": 60, "grpc.http2.ping_timeout_ms": 5}
BUSY, INVALID = b"grpc-status\x018", b"grpc-status\x013"
UNAUTHENTICATED = b"grpc-status\x0216"
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


class TestCallsWithoutRequests:
    """Calls whose headers have arrived."""

    @pytest.fixture
    def settings(self, settings):
        return changed(settings, call_deadline=timedelta(milliseconds=300))

    async def test_call_without_request_ends_at_its_deadline(self, connection):
        await agree(connection)
        await connection.send(headers(1, VALIDATE))

        assert BUSY in (await frame_of(connection, HEADERS, stream=1)).payload

    async def test_call_that_ends_without_request_is_refused(self, connection):
        await agree(connection)
        begun = headers(1, VALIDATE)[9:]
        await connection.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, begun))

        assert INVALID in (await frame_of(connection, HEADERS, stream=1)).payload

    async def test_call_that_ends_at_its_deadline_is_answered_once(
        self, connection, monkeypatch, caplog
    ):
        monkeypatch.setattr(request_receipt, "CANCELLATION_WAIT", 3.0)
        await agree(connection)
        begun = headers(1, VALIDATE)[9:]
        await connection.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, begun))
        assert BUSY in (await frame_of(connection, HEADERS, stream=1)).payload
        await asyncio.sleep(request_receipt.CANCELLATION_WAIT)

        assert [record for record in caplog.records if record.levelname == "ERROR"] == []

    async def test_connection_with_many_overdue_calls_is_closed(self, service, connection):
        await agree(connection)
        many = range(1, 2 * request_receipt.MAX_STRIKES, 2)
        await connection.send(*(headers(number, VALIDATE) for number in many))

        await closed(connection)
        assert service.components.connections.closed == 1

    async def test_connection_with_requests_between_stays_open(self, service, connection):
        await agree(connection)
        for number in range(1, 4 * request_receipt.MAX_STRIKES + 1, 4):
            await connection.send(headers(number, VALIDATE))
            await frame_of(connection, HEADERS, stream=number)
            await connection.send(headers(number + 2, VALIDATE), message(number + 2, NO_SESSION))
            await frame_of(connection, HEADERS, stream=number + 2)

        assert service.components.connections.closed == 0


class TestLateCalls:
    """Too many calls whose requests are late, before they reach their deadline."""

    async def test_connection_with_late_calls_is_closed(self, service, connection, monkeypatch):
        monkeypatch.setattr(request_receipt, "LATE", 0.01)
        monkeypatch.setattr(request_receipt, "LATE_CALLS", 50)
        await agree(connection)
        await connection.send(*(headers(number, VALIDATE) for number in range(1, 200, 2)))

        await closed(connection)


class TestBytesBeforeCalls:
    """Connections that use memory without a call."""

    async def test_connection_with_too_much_metadata_is_closed(self, service, connection):
        await connection.greet()
        await connection.send(header_bomb(1, VALIDATE, 8000))

        await closed(connection)
        assert service.components.connections.closed == 1

    async def test_silent_connection_is_closed_if_memory_grows(
        self, service, connection, monkeypatch
    ):
        monkeypatch.setattr(connections, "SUDDEN_GROWTH", -sys.maxsize)
        await connection.greet()
        await connection.send(header_bomb(1, VALIDATE, 2 * connections.SILENT_BYTES)[:-1])

        await closed(connection)
        # Without that, gRPC closes it after some seconds.
        await eventually(lambda: service.components.connections.closed == 1)

    async def test_unreadable_list_of_files_closes_nothing(
        self, service, connection, monkeypatch, tmp_path
    ):
        monkeypatch.setattr(connections, "FILE_DESCRIPTORS", tmp_path / "missing")
        service.components.connections.close_silent(asyncio.get_running_loop())

        assert service.components.connections.closed == 0

    async def test_connections_with_calls_and_to_database_stay_open(
        self, service, connection, monkeypatch
    ):
        monkeypatch.setattr(connections, "SILENT_BYTES", 0)
        await agree(connection)
        await connection.send(headers(1, VALIDATE), message(1, NO_SESSION))
        await frame_of(connection, HEADERS, stream=1)
        service.components.connections.close_silent(asyncio.get_running_loop())
        await connection.send(headers(3, VALIDATE), message(3, NO_SESSION))

        await frame_of(connection, HEADERS, stream=3)
        assert service.components.connections.closed == 0


async def test_request_that_follows_its_headers_is_answered(connection):
    await agree(connection)
    await connection.send(headers(1, VALIDATE))
    await asyncio.sleep(0.05)
    await connection.send(message(1, NO_SESSION))

    assert UNAUTHENTICATED in (await frame_of(connection, HEADERS, stream=1)).payload


async def test_watches_of_health_are_limited_per_connection(connection):
    await agree(connection)
    numbers = range(1, 2 * OPEN_STREAMS_PER_CONNECTION + 3, 2)
    for number in numbers:
        await connection.send(headers(number, WATCH), message(number, b""))
        answer = await frame_of(connection, HEADERS, stream=number)
        assert (BUSY in answer.payload) == (number == numbers[-1])


async def test_first_watch_of_a_connection_is_admitted(connection, monkeypatch):
    monkeypatch.setattr(StreamLimitInterceptor, "open_streams", OPEN_STREAMS)
    await agree(connection)
    for number in (1, 3):
        await connection.send(headers(number, WATCH), message(number, b""))
        answer = await frame_of(connection, HEADERS, stream=number)
        assert (BUSY in answer.payload) == (number > 1)


async def test_watch_that_is_not_read_delays_no_other(service, connection):
    await connection.greet({INITIAL_WINDOW_SIZE: 0})
    await frames_up_to(connection, (SETTINGS, 0))
    await connection.send(headers(1, WATCH), message(1, b""))
    await frame_of(connection, HEADERS, stream=1)

    async with grpc.aio.insecure_channel(str(service.addresses[0])) as channel:
        watch = HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        async with asyncio.timeout(PATIENCE):
            assert (await watch.read()).status == SERVING
            await service.components.health.set_status(reads=False, writes=False)
            assert (await watch.read()).status == NOT_SERVING


async def agree(connection):
    """Exchange settings."""
    await connection.greet()
    await frames_up_to(connection, (SETTINGS, 0))


async def closed(connection):
    async with asyncio.timeout(PATIENCE):
        await connection.ended()


async def frame_of(connection, kind, stream):
    """Read until a frame of a kind comes on a stream, and return it."""
    async with asyncio.timeout(PATIENCE):
        while True:
            received = await connection.receive()
            if (received.kind, received.stream) == (kind, stream):
                return received


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
