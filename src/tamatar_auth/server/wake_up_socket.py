"""Makes grpcio read its wake-up socket whole.

grpcio's poller thread writes a byte to a socket for each event. The reader on the event loop
takes one byte and all events, so most turns of a busy loop find no event. Decision 30 has the
figures and the links.
"""

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

from grpc._cython import cygrpc

_ALL_BYTES = 64 * 1024


@contextlib.contextmanager
def drained_wake_ups() -> Iterator[None]:
    """Let grpcio create its completion queue with a socket that is read whole.

    It creates the queue with the first channel or server of the process, so a later block has
    no effect.
    """
    original = cygrpc.socket
    cygrpc.socket = _SocketModule()
    try:
        yield
    finally:
        cygrpc.socket = original


class _SocketModule:
    """The module `socket`, with a pair whose first end is read whole."""

    def __getattr__(self, name: str) -> Any:
        return getattr(socket, name)

    def socketpair(self) -> tuple[socket.socket, socket.socket]:
        reader, writer = socket.socketpair()
        return _DrainedSocket(fileno=reader.detach()), writer


class _DrainedSocket(socket.socket):
    """A socket that returns all bytes that wait. grpcio asks for one, and ignores its value."""

    def recv(self, _size: int, flags: int = 0) -> bytes:
        # The poller queues an event before it writes the byte: after the read, grpcio takes all
        # events of the bytes that this returns.
        return super().recv(_ALL_BYTES, flags)
