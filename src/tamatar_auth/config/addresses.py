"""Addresses that a server listens on."""

import errno
import ipaddress
import re
import socket
from typing import Any, NamedTuple, Self


class ListenAddress(NamedTuple):
    """A `host:port`, or a unix socket when there is a path."""

    host: str
    port: int
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `127.0.0.1:50051`, `[::1]:50051`, `localhost:50051` or `unix:/run/auth.sock`."""
        text = text.strip()
        if text.startswith("unix:"):
            path = re.sub(r"^unix:(//(?=/))?", "", text)
            if not path:
                raise ValueError("must name a path after unix:")
            return cls("", 0, path)
        match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):(\d{1,5})", text)
        if match is None or int(match[2]) > 65535:  # noqa: PLR2004 - the largest port
            raise ValueError("must be host:port, [address]:port or unix:path")
        return cls(match[1].strip("[]"), int(match[2]))

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the address."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def is_taken(self) -> bool:
        """Whether a process listens on the address, or on one that its name resolves to."""
        try:
            if self.path:
                with socket.socket(socket.AF_UNIX) as probe:
                    return probe.connect_ex(self.path) == 0
            resolved = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except OSError:
            return False  # the error of binding names the cause
        return any(_is_taken(family, sockaddr) for family, _, _, _, sockaddr in resolved)


def _is_taken(family: int, sockaddr: Any) -> bool:
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(sockaddr)
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False
