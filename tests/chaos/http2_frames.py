"""HTTP/2 of a hostile client: frames written by hand (RFC 9113, RFC 7541)."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple, Self

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
INITIAL_WINDOW_SIZE = 4
"""A setting: the bytes of a response that a client accepts before it asks for more."""

LARGEST = 16_384
"""Bytes of the longest frame that every server accepts."""


class Frame(NamedTuple):
    """A frame from a server."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """Encode a frame."""
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def settings(given: Mapping[int, int] | None = None) -> bytes:
    """Encode the settings of a client."""
    pairs = (given or {}).items()
    return frame(SETTINGS, payload=b"".join(struct.pack("!HI", *pair) for pair in pairs))


def headers(stream: int, path: str, **more: str) -> bytes:
    """Encode the beginning of a call: every field is literal, nothing is compressed."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
        **{name.replace("_", "-"): value for name, value in more.items()},
    }
    block = b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())
    return _header_frames(stream, block)


def header_bomb(stream: int, path: str, references: int) -> bytes:
    """Encode the beginning of a call that refers many times to one entry of the header table.

    A reference is a byte, and an entry takes about a hundred at the server.
    """
    begun = headers(stream, path)[9:]
    entry = b"\x40" + _text("x-bomb") + _text("x")
    return _header_frames(stream, begun + entry + b"\xbe" * references)


def _header_frames(stream: int, block: bytes) -> bytes:
    parts = [block[at : at + LARGEST] for at in range(0, len(block), LARGEST)]
    kinds = [HEADERS] + [9] * (len(parts) - 1)  # a CONTINUATION is a 9
    return b"".join(
        frame(kind, END_HEADERS if part is parts[-1] else 0, stream, part)
        for kind, part in zip(kinds, parts, strict=True)
    )


def message(stream: int, body: bytes, *, compressed: bool = False) -> bytes:
    """Encode a message that ends the request."""
    whole = struct.pack("!BI", compressed, len(body)) + body
    parts = [whole[at : at + LARGEST] for at in range(0, len(whole), LARGEST)]
    return b"".join(
        frame(DATA, END_STREAM if part is parts[-1] else 0, stream, part) for part in parts
    )


def reset(stream: int) -> bytes:
    """Encode the cancellation of a call."""
    return frame(RST_STREAM, stream=stream, payload=struct.pack("!I", 8))


class Connection:
    """A connection to a server, which can do what no library does."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    @contextlib.asynccontextmanager
    async def to(cls, address: str) -> AsyncIterator[Self]:
        """Connect while the block runs, without sending anything."""
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            yield cls(reader, writer)
        finally:
            writer.transport.abort()

    async def send(self, *frames: bytes) -> None:
        """Send frames; return when the system has accepted them.

        Raises `OSError` if the server has closed the connection.
        """
        if self._writer.transport.is_closing():  # uvloop would raise another error
            raise ConnectionResetError
        self._writer.write(b"".join(frames))
        await self._writer.drain()

    async def greet(self, given: Mapping[int, int] | None = None) -> None:
        """Send what every client sends first."""
        await self.send(PREFACE, settings(given))

    async def receive(self) -> Frame:
        """Read a frame; raise `EOFError` or `OSError` if the server has closed the connection."""
        head = await self._reader.readexactly(9)
        kind, flags, stream = struct.unpack("!BBI", head[3:])
        length = int.from_bytes(head[:3])
        return Frame(kind, flags, stream, await self._reader.readexactly(length))

    async def answer_settings(self) -> None:
        """Acknowledge settings until the server closes the connection."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                received = await self.receive()
                if received.kind == SETTINGS and not received.flags:
                    await self.send(frame(SETTINGS, ACK))

    async def ended(self) -> None:
        """Read until the server closes the connection."""
        with contextlib.suppress(OSError):
            while await self._reader.read(LARGEST):
                pass


def _text(text: str) -> bytes:
    encoded = text.encode()
    return _number(len(encoded)) + encoded


def _number(number: int) -> bytes:
    """Encode a number with a prefix of seven bits."""
    if number < 127:
        return bytes([number])
    written, rest = bytearray([127]), number - 127
    while rest >= 128:
        written.append(rest % 128 + 128)
        rest //= 128
    return bytes([*written, rest])
