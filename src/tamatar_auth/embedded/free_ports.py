"""Ports for a server that goes along with another process."""

import secrets
import socket

# Below the ports that systems give to outgoing connections, or a client that keeps trying to
# reach a stopped server could be given the server's own port, and connect to itself.
PORTS = range(15_000, 30_000)


def free_port() -> int:
    """Choose a port that nobody listens on."""
    while not is_free(port := secrets.choice(PORTS)):
        pass
    return port


def is_free(port: int) -> bool:
    """Tell whether a server could listen on a port of 127.0.0.1."""
    with socket.socket() as probe:
        # As PostgreSQL does: connections that just ended do not keep the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
