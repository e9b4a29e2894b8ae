"""Binds servers to the addresses of the settings."""

from collections.abc import Sequence

import grpc

from tamatar_auth.config.addresses import ListenAddress
from tamatar_auth.config.settings import Settings
from tamatar_auth.config.watched_files import WatchedFiles
from tamatar_auth.security.tls import TlsCredentials, server_credentials
from tamatar_auth.server.ports import HEALTH_LISTEN, LISTEN, refuse_if_taken, unusable_address


def bind_calls(
    server: grpc.aio.Server, settings: Settings, tls: WatchedFiles[TlsCredentials] | None
) -> Sequence[ListenAddress]:
    """Bind the server of calls; return its addresses, or raise `StartError`."""
    for address in settings.listen:
        _refuse_if_taken(address, settings, LISTEN)
    return [_bind(server, address, tls, LISTEN) for address in settings.listen]


def bind_health(server: grpc.aio.Server, settings: Settings) -> ListenAddress | None:
    """Bind the health server; return its address, or None if the settings have none."""
    address = settings.health_listen
    if address is None:
        return None
    _refuse_if_taken(address, settings, HEALTH_LISTEN)
    return _bind(server, address, None, HEALTH_LISTEN)


def _refuse_if_taken(address: ListenAddress, settings: Settings, setting: str) -> None:
    if settings.workers == 1:  # the supervisor of several workers has checked and reserved the port
        refuse_if_taken(address, setting)


def _bind(
    server: grpc.aio.Server,
    address: ListenAddress,
    tls: WatchedFiles[TlsCredentials] | None,
    setting: str,
) -> ListenAddress:
    try:
        if tls is None or address.path:
            port = server.add_insecure_port(str(address))
        else:
            port = server.add_secure_port(str(address), server_credentials(tls))
    except RuntimeError:
        raise unusable_address(address, setting) from None
    return address if address.path else address._replace(port=port)
