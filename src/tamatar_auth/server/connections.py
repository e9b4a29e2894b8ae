"""Closes connections. gRPC offers no way to close one, but its sockets belong to this process."""

import asyncio
import contextlib
import os
import resource
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import structlog
from opentelemetry.metrics import Meter

from tamatar_auth.observability import semconv
from tamatar_auth.observability.instruments import observe_counter

CHECK_INTERVAL = 0.025
"""Seconds between two looks at the memory of the process."""

LAST_LOOK = 1.0
"""Seconds that the last look may take when the server stops."""

CALM_GROWTH = 2**19
"""Bytes by which memory may grow from one look to the next."""

SUDDEN_GROWTH = 16 * 2**20
"""Bytes beyond that growth, after which silent connections are closed."""

SILENT_BYTES = 64 * 1024
"""Bytes that a connection may send before its first call. HTTP/2 lets a client send as many of
messages before the server has read any."""

CLOSING_SECONDS = 5.0
"""Seconds in which gRPC may still hand over calls of a connection that was closed."""

MAX_ACCEPTED = 10_000
"""Peers with an accepted call. Beyond it those that have left are dropped."""

LOG_INTERVAL = 10.0
"""Seconds between two log lines, because a stranger decides how often connections are closed."""

FILE_DESCRIPTORS = Path("/dev/fd")
INTERNET = (socket.AF_INET, socket.AF_INET6)
RESIDENT_PAGES = Path("/proc/self/statm")

_TCP_INFO = getattr(socket, "TCP_INFO", 0)
_BYTES_RECEIVED = struct.Struct("=128xQ")  # the field of Linux's struct tcp_info

log = structlog.get_logger(__name__)


class Connections:
    """The connections of callers, by the names that gRPC gives to peers."""

    def __init__(self, meter: Meter | None = None) -> None:
        self.ports: set[int] = set()
        """The ports of this server. Connections from other ports are none of callers."""
        self._to_close: set[str] = set()
        self.accepted: set[str] = set()
        """The peers with an accepted call."""
        self.closing: set[str] = set()
        """The peers of connections that were just closed."""
        self.closed = 0
        """The number of connections that were closed."""
        self._logged = -LOG_INTERVAL
        if meter is not None:
            observe_counter(
                meter,
                semconv.CONNECTIONS_CLOSED,
                lambda: self.closed,
                unit="{connection}",
                description="The connections that were closed because of misuse.",
            )

    def close(self, peer: str) -> None:
        """Close a connection, which ends its calls. Unix sockets have no names, and stay open."""
        if not self._to_close:  # hostile connections come in crowds, and the search takes time
            asyncio.get_running_loop().call_soon(self._close_all)
        self._to_close.add(peer)
        self._ignore(peer, asyncio.get_running_loop())

    def _close_all(self) -> None:
        loop = asyncio.get_running_loop()
        for name, connection in self._open():
            if name in self._to_close:
                self._close(name, connection, loop)
        self._to_close.clear()

    async def guard_memory(self) -> None:
        """Close silent connections whenever the memory of the process grows suddenly.

        gRPC does not limit the headers of a client that has not acknowledged HTTP/2's settings.
        Most of them never become a call.

        The memory is read on a thread: the event loop of a busy process comes to it too late.
        """
        ended = threading.Event()
        loop = asyncio.get_running_loop()
        watching = threading.Thread(
            target=self._watch_memory, args=(loop, ended), name="guard memory", daemon=True
        )
        watching.start()
        try:
            await loop.create_future()
        finally:
            ended.set()
            watching.join(LAST_LOOK)  # it must not call a loop that was closed

    def _watch_memory(self, loop: asyncio.AbstractEventLoop, ended: threading.Event) -> None:
        calm = _resident_bytes()
        while not ended.wait(CHECK_INTERVAL):
            size = _resident_bytes()
            calm = min(size, calm + CALM_GROWTH)
            if size > calm + SUDDEN_GROWTH or len(self.accepted) > MAX_ACCEPTED:
                self.close_silent(loop)

    def close_silent(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close the connections that sent much and have no accepted call. Any thread may call."""
        accepted, peers = self.accepted.copy(), set()
        for name, connection in self._open():
            peers.add(name)
            if name not in self.accepted and _bytes_received(connection) > SILENT_BYTES:
                self._close(name, connection, loop)
        self.accepted -= accepted - peers

    def _open(self) -> Iterator[tuple[str, socket.socket]]:
        """Yield the name of each peer, with a socket that shares the connection."""
        try:
            files = [*FILE_DESCRIPTORS.iterdir()]
        except OSError:  # the process has no file descriptor left to read the folder
            return
        for file in files:
            with contextlib.suppress(OSError), _duplicate(int(file.name)) as connection:
                if connection.family in INTERNET and connection.getsockname()[1] in self.ports:
                    yield peer_name(connection), connection

    def _close(self, peer: str, connection: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        self._ignore(peer, loop)
        self.closed += 1
        if time.monotonic() >= self._logged + LOG_INTERVAL:
            self._logged = time.monotonic()
            log.warning("connection closed", peer=peer, closed=self.closed)

    def _ignore(self, peer: str, loop: asyncio.AbstractEventLoop) -> None:
        self.closing.add(peer)
        loop.call_soon_threadsafe(loop.call_later, CLOSING_SECONDS, self.closing.discard, peer)


def peer_name(connection: socket.socket) -> str:
    """Return the name of a peer as gRPC writes it, or raise `OSError` if there is no peer."""
    host, port, *_ = connection.getpeername()
    host = host.removeprefix("::ffff:")
    return f"ipv6:%5B{host}%5D:{port}" if ":" in host else f"ipv4:{host}:{port}"


def _duplicate(descriptor: int) -> socket.socket:
    """Return a socket that shares a connection, because gRPC may close its own at any time."""
    duplicate = os.dup(descriptor)
    try:
        return socket.socket(fileno=duplicate)
    except OSError:
        os.close(duplicate)
        raise


def _bytes_received(connection: socket.socket) -> int:
    """Return the bytes that a connection has received, or 0 if the system does not report it."""
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _BYTES_RECEIVED.size)
        (received,) = _BYTES_RECEIVED.unpack(info)
    except (OSError, struct.error):
        return 0
    return int(received)


def _resident_bytes() -> int:
    """Return the memory of this process, or 0 if the system does not report it."""
    try:
        pages = RESIDENT_PAGES.read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * resource.getpagesize()
