"""Attacks of hostile clients; each one lasts as long as its block."""

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from itertools import count, islice

from tests.chaos.http2_frames import (
    INITIAL_WINDOW_SIZE,
    PING,
    Connection,
    frame,
    header_bomb,
    headers,
    message,
    reset,
    settings,
)

VALIDATE = "/tamatar.auth.v1.SessionService/ValidateSession"
REFLECT = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
NO_SESSION = b"\n\x05tms_x"
"""A ValidateSessionRequest with an unknown token."""
WATCH = "/grpc.health.v1.Health/Watch"
LIST_SERVICES = b"\x3a\x01*"
"""A ServerReflectionRequest for the services."""
MIB = 2**20

Attack = Callable[[str], AbstractAsyncContextManager[None]]


def streams() -> Iterator[int]:
    """Yield the stream numbers of a client."""
    return count(1, 2)


@contextlib.asynccontextmanager
async def _on(address: str, number: int) -> AsyncIterator[list[Connection]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Connection.to(address)) for _ in range(number)]


def _begun(connections: int, calls: int, call: Callable[[int], bytes]) -> Attack:
    """Begin calls on each connection, a hundred at a time, and leave them as they are."""

    @contextlib.asynccontextmanager
    async def attack(address: str) -> AsyncIterator[None]:
        async with _on(address, connections) as hostile:
            reading = [asyncio.create_task(connection.answer_settings()) for connection in hostile]
            numbers = [*islice(streams(), calls)]
            for connection in hostile:
                await connection.greet()
            for at in range(0, calls, 100):
                burst = b"".join(map(call, numbers[at : at + 100]))
                for connection in hostile:
                    with contextlib.suppress(OSError):  # the server has closed it
                        await connection.send(burst)
            yield
            for task in reading:
                task.cancel()

    return attack


@contextlib.asynccontextmanager
async def header_bombs(address: str) -> AsyncIterator[None]:
    """Send 10 MB of header blocks on 10 connections, and acknowledge no settings."""
    async with _on(address, 10) as connections:
        for connection in connections:
            await connection.greet()
        for stream in islice(streams(), 125):
            bomb = header_bomb(stream, VALIDATE, 8000)
            for connection in connections:
                with contextlib.suppress(OSError):  # the server has closed it
                    await connection.send(bomb)
        yield


@contextlib.asynccontextmanager
async def byte_by_byte(address: str) -> AsyncIterator[None]:
    """Send calls on 20 connections, byte by byte with growing pauses."""

    async def trickle(connection: Connection) -> None:
        for byte in headers(1, VALIDATE) + message(1, NO_SESSION):
            await connection.send(bytes([byte]))
            await asyncio.sleep(0.005)

    async with _on(address, 20) as connections:
        for connection in connections:
            await connection.greet()
        trickling = asyncio.gather(*map(trickle, connections))
        yield
        await trickling


@contextlib.asynccontextmanager
async def stalled(address: str) -> AsyncIterator[None]:
    """Call on 10 connections, 100 times each, and read no byte of the responses."""
    async with _on(address, 10) as connections:
        for connection in connections:
            await connection.greet({INITIAL_WINDOW_SIZE: 0})
            for stream in islice(streams(), 100):
                await connection.send(headers(stream, REFLECT), message(stream, LIST_SERVICES))
        yield


@contextlib.asynccontextmanager
async def bombs(address: str) -> AsyncIterator[None]:
    """Send requests of 60 KiB and 100 KiB that decompress to 60 MiB and 100 MiB."""
    packed = [gzip.compress(bytes(size * MIB)) for size in (60, 100)]
    async with _on(address, 10) as connections:
        for connection in connections:
            await connection.greet()
            for stream in islice(streams(), 10):
                began = headers(stream, VALIDATE, grpc_encoding="gzip")
                body = packed[stream == 1]
                await connection.send(began, message(stream, body, compressed=True))
        yield


async def _flood(address: str, burst: Callable[[Iterator[int]], bytes], times: int) -> None:
    """Send bursts while the responses are read; a closed connection is no problem."""

    async def send(connection: Connection) -> None:
        await connection.greet()
        numbers = streams()
        for _ in range(times):
            await connection.send(burst(numbers))

    async with _on(address, 4) as connections:
        for connection in connections:
            reading = asyncio.create_task(connection.ended())
            with contextlib.suppress(OSError):
                await send(connection)
            reading.cancel()


def _flooding(burst: Callable[[Iterator[int]], bytes], times: int) -> Attack:
    @contextlib.asynccontextmanager
    async def attack(address: str) -> AsyncIterator[None]:
        await _flood(address, burst, times)
        yield

    return attack


def _reset_calls(numbers: Iterator[int]) -> bytes:
    return b"".join(headers(n, VALIDATE) + reset(n) for n in islice(numbers, 100))


def _reset_requests(numbers: Iterator[int]) -> bytes:
    return b"".join(
        headers(n, VALIDATE) + message(n, NO_SESSION) + reset(n) for n in islice(numbers, 100)
    )


def _ping(_numbers: Iterator[int]) -> bytes:
    return frame(PING, payload=bytes(8)) * 1000


def _set(_numbers: Iterator[int]) -> bytes:
    return settings() * 1000


def _long_metadata(numbers: Iterator[int]) -> bytes:
    stream = next(numbers)
    return headers(stream, VALIDATE, x_long="x" * 17 * 1024) + message(stream, NO_SESSION)


def _long_message(numbers: Iterator[int]) -> bytes:
    stream = next(numbers)
    return headers(stream, VALIDATE) + message(stream, bytes(5 * MIB))


half_sent = _begun(50, 1000, lambda stream: headers(stream, VALIDATE))
health_watches = _begun(20, 1000, lambda stream: headers(stream, WATCH) + message(stream, b""))


@contextlib.asynccontextmanager
async def all_at_once(address: str) -> AsyncIterator[None]:
    """Attack on 100 connections in different ways."""
    attacks = (half_sent, health_watches, header_bombs, byte_by_byte)
    async with contextlib.AsyncExitStack() as stack:
        entered = (stack.enter_async_context(attack(address)) for attack in attacks)
        await asyncio.gather(*entered)
        yield


ATTACKS: dict[str, Attack] = {
    "50,000 calls without requests": half_sent,
    "20,000 watches of health": health_watches,
    "10 MB of references to one header": header_bombs,
    "these on 100 connections": all_at_once,
    "byte by byte": byte_by_byte,
    "stalled readers": stalled,
    "compression bombs": bombs,
    "resets of calls": _flooding(_reset_calls, 50),
    "resets of requests": _flooding(_reset_requests, 20),
    "pings": _flooding(_ping, 50),
    "settings": _flooding(_set, 50),
    "17 KiB of metadata": _flooding(_long_metadata, 100),
    "messages of 5 MiB": _flooding(_long_message, 3),
}
