"""The address of the service, and the options and credentials of a channel to it."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import grpc

from tamatar_auth.client.call_defaults import service_config

Token = str | Callable[[], str]
"""A caller's token, or a function that returns the current one for each call."""

CHANNEL_OPTIONS: tuple[tuple[str, Any], ...] = (
    # The server disconnects a client that pings more often than every 9 seconds.
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.keepalive_timeout_ms", 4_000),
    # While a ping of another kind waits, gRPC sends no keepalive. Its limit is a minute.
    ("grpc.http2.ping_timeout_ms", 4_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # gRPC's own backoff before a reconnect grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 3_000),
    # A replica that is started takes calls after gRPC has resolved the name again, which it does
    # when a connection ends, by default at most every 30 seconds.
    ("grpc.dns_min_time_between_resolutions_ms", 5_000),
    # A response about a thousand sessions is larger than the default limit of 4 MiB.
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
)

MAX_PORT = 65535

_TOKEN_CHARACTERS = re.compile(r"[!-~]+")
_HOST_AND_PORT = re.compile(r"(?:\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?")
_IP_TARGET = re.compile(r"ipv[46]:")
_OTHER_TARGET = re.compile(r"(dns|google-c2p|ipv4|ipv6|unix|unix-abstract|vsock|xds):\S+")
_LIST_SCHEMES = ((re.compile(r"(\d+\.){3}\d+:\d+"), "ipv4"), (re.compile(r"\[.+\]:\d+"), "ipv6"))
_LOOPBACK = re.compile(r"localhost|127(\.\d{1,3}){3}|\[?::1\]?")
_ONE_SERVER = re.compile(r"localhost|(\d{1,3}\.){3}\d{1,3}|\[.+\]")


class ConnectOptions(TypedDict, total=False):
    """How to connect to a service. Every option is optional."""

    token: Token | None
    """The token of this caller, or a function that returns it for each call."""
    plaintext: bool | None
    """Whether to use plain text. The default is plain text for local addresses without
    certificates, and TLS otherwise."""
    root_certificates: bytes | Path | None
    """The authorities to trust, as PEM or the path of a file; the system's by default."""
    certificate: bytes | Path | None
    """The client certificate, as PEM or the path of a file. It needs a `private_key`."""
    private_key: bytes | Path | None
    """The private key of the certificate."""
    server_name: str | None
    """The name in the service's certificate, if it is not the address."""
    options: Sequence[tuple[str, Any]]
    """More channel options of gRPC."""


@dataclass(frozen=True, slots=True)
class Target:
    """The address, credentials and options of a channel."""

    address: str
    credentials: grpc.ChannelCredentials | None
    """None for plain text."""
    options: Sequence[tuple[str, Any]]


def resolve_target(address: str, connect_options: ConnectOptions) -> Target:
    """Return the target for an address.

    Raises `ValueError` if the address is malformed or options contradict each other, and
    `TypeError` if an option is unknown.
    """
    check_address(address)
    address = _as_target(address)
    unknown = connect_options.keys() - ConnectOptions.__annotations__.keys()
    if unknown:
        raise TypeError(f"unknown options: {', '.join(sorted(unknown))}")
    plaintext, server_name = connect_options.get("plaintext"), connect_options.get("server_name")
    root_certificates = connect_options.get("root_certificates")
    certificate = connect_options.get("certificate")
    private_key = connect_options.get("private_key")
    certificates = (root_certificates, certificate, private_key)
    if (certificate is None) != (private_key is None):
        raise ValueError("certificate and private_key must be used together")
    plaintext = uses_plaintext(address, plaintext, certificates)
    if plaintext and certificates != (None, None, None):
        raise ValueError("certificates cannot be used with plain text")
    is_list = _IP_TARGET.match(address) is not None and len(_hosts(address)) > 1
    if is_list and not (plaintext or server_name or is_local(address)):
        # gRPC would accept a certificate of localhost, and of no other name.
        raise ValueError("a list of addresses with TLS needs the server_name of the certificates")
    name_override = [("grpc.ssl_target_name_override", server_name)] if server_name else []
    # The proxy of the environment, which gRPC would ask, is another machine.
    direct = [("grpc.enable_http_proxy", 0)] if is_local(address) else []
    # Without another server to call, a call fails with the reason of this one.
    unwatched = [("grpc.inhibit_health_checking", 1)] if is_one_server(address) else []
    credentials = None
    if not plaintext:
        root, chain, key = (_read_pem(given) for given in certificates)
        credentials = grpc.ssl_channel_credentials(root, key, chain)
    config = ("grpc.service_config", service_config())
    more_options = connect_options.get("options", ())
    options = [config, *CHANNEL_OPTIONS, *direct, *unwatched, *name_override, *more_options]
    return Target(address, credentials, options)


def uses_plaintext(address: str, plaintext: bool | None, certificates: Iterable[object]) -> bool:  # noqa: FBT001 - an option
    """Return whether a channel uses plain text, by its options or by default."""
    if plaintext is not None:
        return plaintext
    return is_local(address) and all(given is None for given in certificates)


def check_address(address: str) -> None:
    """Raise `ValueError` unless gRPC can read an address."""
    endpoints = address.split(",")
    if not all(map(_is_endpoint, endpoints)) and not _OTHER_TARGET.fullmatch(address):
        raise ValueError(
            "the address must be host:port, [address]:port, unix:path or another target of gRPC"
        )
    if len(endpoints) > 1 and _as_target(address) == address and _is_endpoint(endpoints[0]):
        raise ValueError(
            "a list must have only IPv4 addresses or only [IPv6] addresses, each with a port: "
            "servers with names need one name that resolves to all of them"
        )


def is_local(address: str) -> bool:
    """Return whether an address is on this machine: loopback or a unix socket."""
    return _is_unix(address) or all(_LOOPBACK.fullmatch(host) for host in _hosts(address))


def is_one_server(address: str) -> bool:
    """Return whether an address stands for one server. A name may stand for several."""
    if _is_unix(address):
        return True
    hosts = _hosts(address)
    return len(hosts) == 1 and _ONE_SERVER.fullmatch(hosts[0]) is not None


def bearer_metadata(token: Token | None) -> Sequence[tuple[str, str]]:
    """Return the metadata with the caller's token; raise `ValueError` if it cannot be sent.

    A line break at the end is removed, because a token may come from a file.
    """
    if token is None:
        return ()
    text = (token if isinstance(token, str) else token()).strip()
    if not text:
        raise ValueError("the token of this caller is empty: a variable may be unset")
    if not _TOKEN_CHARACTERS.fullmatch(text):
        raise ValueError("the token of this caller has invalid characters")
    return (("authorization", f"Bearer {text}"),)


def _read_pem(given: bytes | Path | None) -> bytes | None:
    return given.read_bytes() if isinstance(given, Path) else given


def _is_endpoint(address: str) -> bool:
    found = _HOST_AND_PORT.fullmatch(address)
    return found is not None and (found[1] is None or 0 < int(found[1]) <= MAX_PORT)


def _as_target(address: str) -> str:
    """Return the target name of a list of addresses, or the address if it is no list."""
    endpoints = address.split(",")
    for pattern, scheme in _LIST_SCHEMES:
        if len(endpoints) > 1 and all(pattern.fullmatch(each) for each in endpoints):
            return f"{scheme}:{address}"
    return address


def _is_unix(address: str) -> bool:
    return address.startswith(("unix:", "unix-abstract:"))


def _hosts(address: str) -> Sequence[str]:
    endpoints = re.sub(r"^(ipv4|ipv6|dns):", "", address.rpartition("/")[2]).split(",")
    return [re.sub(r"(?<=[^:]):\d+$", "", endpoint) for endpoint in endpoints]
