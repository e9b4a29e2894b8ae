"""The wire between the service and PostgreSQL, which fails at a chosen round trip.

A proxy that reads only as much of the protocol as it needs to separate messages and round trips
(https://www.postgresql.org/docs/current/protocol-message-formats.html). Nothing is encrypted.
"""

import asyncio
import contextlib
import os
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator
from enum import Enum
from typing import Self
from urllib.parse import urlsplit

SSL_REQUEST, GSS_REQUEST, CANCEL_REQUEST = 80877103, 80877104, 80877102
ENDS_QUESTION = (b"Q", b"S")
"""Query and Sync: the messages that the server answers, up to a ReadyForQuery."""
READY = b"Z"

_FIELDS = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
FATAL = b"E" + struct.pack("!I", len(_FIELDS) + 4) + _FIELDS
"""The last message of a backend that is terminated."""


class Fault(Enum):
    """The fate of a round trip."""

    CUT_BEFORE = "the question never arrives, the connection is gone"
    RESET = "the question never arrives, the server ends with FATAL and resets the connection"
    CUT_AFTER = "the server has done what it was asked, the answer is lost with the connection"
    HOLD = "the server has done what it was asked, the answer waits for its release"
    FREEZE = "the question waits, and all that is said from now on, until the wire is healed"


class Plan:
    """A fault at a future round trip."""

    def __init__(self, fault: Fault, at: int) -> None:
        self.fault = fault
        self.left = at
        self.met = asyncio.Event()
        """Set when the fault has happened."""
        self.released = asyncio.Event()


class Link:
    """A connection of the service, and its connection to the server."""

    def __init__(self, wire: "Wire", service: "Side", server: "Side") -> None:
        self.round_trips = 0
        self._wire, self._service, self._server = wire, service, server
        # The server reports once that it is ready before any query.
        self._asked: deque[Plan | None] = deque([None])

    async def pass_on(self) -> None:
        """Relay both directions until one side ends."""
        tasks = [asyncio.ensure_future(each) for each in (self._questions(), self._answers())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._service.end()
            self._server.end()

    def cut(self) -> None:
        """End the connection for both sides, with unsent data lost."""
        self._service.cut()
        self._server.cut()

    def reset(self) -> None:
        """Reset the connection after a last message, as a terminated backend does."""
        self._service.reset(FATAL)
        self._server.cut()

    async def _questions(self) -> None:
        while True:
            message = await self._service.message()
            if message[:1] in ENDS_QUESTION:
                self.round_trips += 1
                plan = self._wire.asked()
                self._asked.append(plan)
                if plan is not None and plan.fault in {Fault.CUT_BEFORE, Fault.RESET}:
                    self.reset() if plan.fault is Fault.RESET else self.cut()
                    plan.met.set()
                    return
                if plan is not None and plan.fault is Fault.FREEZE:
                    self._wire.freeze()
                    plan.met.set()
            await self._wire.flowing.wait()
            await self._server.send(message)

    async def _answers(self) -> None:
        kept = b""
        while True:
            message = await self._server.message()
            kept += message
            plan = self._asked[0] if self._asked else None
            if message[:1] == READY and self._asked:
                self._asked.popleft()
                if not await self._is_let_through(plan):
                    return
            elif plan is not None and plan.fault in {Fault.CUT_AFTER, Fault.HOLD}:
                continue
            await self._wire.flowing.wait()
            await self._service.send(kept)
            kept = b""

    async def _is_let_through(self, plan: Plan | None) -> bool:
        if self._wire.delay:
            await asyncio.sleep(self._wire.delay)
        if plan is not None and plan.fault is Fault.CUT_AFTER:
            self.cut()
            plan.met.set()
            return False
        if plan is not None and plan.fault is Fault.HOLD:
            plan.met.set()
            await plan.released.wait()
        return True


class Side:
    """One end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def start(self) -> bytes:
        """Read the message that opens a connection; it has no type."""
        length = await self._reader.readexactly(4)
        return length + await self._reader.readexactly(_number(length) - 4)

    async def message(self) -> bytes:
        """Read a message."""
        head = await self._reader.readexactly(5)
        return head + await self._reader.readexactly(_number(head[1:]) - 4)

    async def send(self, message: bytes) -> None:
        """Write a message."""
        self._writer.write(message)
        await self._writer.drain()

    async def ended(self) -> None:
        """Return when the other end has closed the connection."""
        await self._reader.read()

    def end(self) -> None:
        """End the connection when everything is written."""
        self._writer.close()

    def cut(self) -> None:
        """End the connection at once."""
        self._writer.transport.abort()

    def reset(self, message: bytes) -> None:
        """Send a message, then RST instead of the end of the stream."""
        raw = self._writer.get_extra_info("socket")
        with contextlib.suppress(OSError):  # the other end has closed it
            os.write(raw.fileno(), message)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.cut()


class Wire:
    """The wire between the service and its database.

    It counts the round trips of all its connections, from when they are ready.
    """

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        self._plan: Plan | None = None
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_down = False
        self._port = 0
        self.round_trips = 0
        self.connections = 0
        self.cancelled = asyncio.Event()
        """Set when the service has asked the server to cancel a statement."""
        self.delay = 0.0
        """Seconds by which every answer is delayed."""
        self.flowing = asyncio.Event()
        self.flowing.set()

    @classmethod
    @contextlib.asynccontextmanager
    async def to(cls, url: str) -> AsyncIterator[Self]:
        """Connect a wire to the server of a database while the block runs."""
        wire = cls(url)
        server = await asyncio.start_server(wire._accept, "127.0.0.1", 0)
        wire._port = server.sockets[0].getsockname()[1]
        try:
            yield wire
        finally:
            server.close()
            for task in wire._tasks:
                task.cancel()
            await asyncio.gather(*wire._tasks, return_exceptions=True)
            await server.wait_closed()

    @property
    def url(self) -> str:
        """The URL of the database over this wire."""
        login, at, _ = self._url.netloc.rpartition("@")
        return self._url._replace(netloc=f"{login}{at}127.0.0.1:{self._port}").geturl()

    @property
    def links(self) -> frozenset[Link]:
        """The open connections."""
        return frozenset(self._links)

    def plan(self, fault: Fault, *, at: int) -> Plan:
        """Plan a fault at a round trip, counted from now: the next one is 1."""
        self._plan = Plan(fault, at)
        return self._plan

    def asked(self) -> Plan | None:
        """Count a round trip; return its plan."""
        self.round_trips += 1
        plan = self._plan
        if plan is None:
            return None
        plan.left -= 1
        if plan.left:
            return None
        self._plan = None
        return plan

    def freeze(self) -> None:
        """Stop relaying, and keep all connections open.

        A writer notices nothing, as with a stopped server process.
        """
        self.flowing.clear()

    def cut(self) -> None:
        """End all connections."""
        for link in self.links:
            link.cut()

    def reset(self) -> None:
        """Reset all connections."""
        for link in self.links:
            link.reset()

    def take_down(self) -> None:
        """End all connections, and refuse new ones."""
        self._is_down = True
        self.cut()

    def heal(self) -> None:
        """Relay everything from now on, withheld messages first."""
        self._plan, self.delay, self._is_down = None, 0.0, False
        self.flowing.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        service = Side(reader, writer)
        task = asyncio.create_task(self._serve(service))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Also if the task is cancelled before it has begun.
        task.add_done_callback(lambda _: service.end())

    async def _serve(self, service: Side) -> None:
        # A peer that disappears during a message was cut off, or ended by itself.
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await self._relay(service)

    async def _relay(self, service: Side) -> None:
        if self._is_down:
            return
        start = await service.start()
        while _number(start[4:8]) in {SSL_REQUEST, GSS_REQUEST}:
            await service.send(b"N")
            start = await service.start()
        await self.flowing.wait()
        server = Side(*await asyncio.open_connection(self._url.hostname, self._url.port))
        try:
            await server.send(start)
            if _number(start[4:8]) == CANCEL_REQUEST:
                await server.ended()
                self.cancelled.set()
            else:
                await self._link(service, server)
        finally:
            server.end()

    async def _link(self, service: Side, server: Side) -> None:
        link = Link(self, service, server)
        self._links.add(link)
        self.connections += 1
        try:
            await link.pass_on()
        finally:
            self._links.discard(link)


def _number(four: bytes) -> int:
    number: int = struct.unpack("!I", four[:4])[0]
    return number
