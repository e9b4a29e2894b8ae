"""The ports of a server: refused if they are taken, reserved if workers share them."""

import contextlib
import errno
import socket
from collections.abc import Iterator
from typing import Any

from tamatar_auth.config.addresses import ListenAddress
from tamatar_auth.config.errors import OperatorError

LISTEN = "TAMATAR_LISTEN"
HEALTH_LISTEN = "TAMATAR_HEALTH_LISTEN"


class StartError(OperatorError):
    """The server cannot start; the message says why and what to do."""

    exit_code = 2


def refuse_if_taken(address: ListenAddress, setting: str = LISTEN) -> None:
    """Raise `StartError` if another process has the address, shared or not.

    gRPC does not report it: one free address of a host name is enough for gRPC, and it takes a
    unix socket from its owner.
    """
    if address.is_taken:
        raise _address_in_use(address, setting)


def unusable_address(address: ListenAddress, setting: str = LISTEN) -> StartError:
    """Return the error for an address that this machine does not have."""
    return StartError(
        f"{address} cannot be listened on: set {setting} to an address of this machine."
    )


def _address_in_use(address: ListenAddress, setting: str) -> StartError:
    return StartError(f"{address} is in use by another process: end that, or set {setting}.")


@contextlib.contextmanager
def reserve_address(address: ListenAddress, setting: str = LISTEN) -> Iterator[ListenAddress]:
    """Reserve an address for processes of this user that share it; yield it with its real port.

    The sockets are bound and do not listen. Raises `StartError` if another process has the
    address.
    """
    refuse_if_taken(address, setting)
    first_socket = None
    with contextlib.ExitStack() as sockets:
        for family, sockaddr in _resolve(address, setting):
            try:
                bound = _bind_shared(family, (sockaddr[0], address.port, *sockaddr[2:]))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise _address_in_use(address, setting) from None
                continue  # localhost may resolve to ::1 on a machine without IPv6
            first_socket = sockets.enter_context(bound)
            # All addresses of a host name share the port that the first one got.
            address = address._replace(port=bound.getsockname()[1])
        if first_socket is None:
            raise unusable_address(address, setting)
        yield address


def _resolve(address: ListenAddress, setting: str) -> list[tuple[int, Any]]:
    try:
        resolved = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError:
        raise unusable_address(address, setting) from None
    return [(family, sockaddr) for family, _, _, _, sockaddr in resolved]


def _bind_shared(family: int, sockaddr: Any) -> socket.socket:
    """Bind a socket that other processes of this user may share.

    The first attempt omits SO_REUSEADDR, so that other processes see the port as taken before a
    worker listens. It fails while connections of an earlier server close; SO_REUSEADDR allows
    that.
    """
    try:
        return _try_bind(family, sockaddr)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return _try_bind(family, sockaddr, socket.SO_REUSEADDR)


def _try_bind(family: int, sockaddr: Any, *options: int) -> socket.socket:
    bound = socket.socket(family)
    try:
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        for option in (socket.SO_REUSEPORT, *options):
            bound.setsockopt(socket.SOL_SOCKET, option, 1)
        bound.bind(sockaddr)
    except OSError:
        bound.close()
        raise
    return bound
