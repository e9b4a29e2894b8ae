"""Free ports on 127.0.0.1."""

import secrets
import socket

PORTS = range(15_000, 30_000)
"""Below the ports of outgoing connections: a client that reconnects to a stopped server could
otherwise get the server's port as its own, and connect to itself."""


def free_port() -> int:
    """Return a random port on which no process listens."""
    while not is_free(port := secrets.choice(PORTS)):
        pass
    return port


def is_free(port: int) -> bool:
    """Return whether a server could listen on a port of 127.0.0.1."""
    with socket.socket() as probe:
        # PostgreSQL sets this too: closed connections in TIME_WAIT do not occupy the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
