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
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # gRPC's own backoff before a reconnect grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 3_000),
    # A response about a thousand sessions is larger than the default limit of 4 MiB.
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
)

MAX_PORT = 65535

_TOKEN_CHARACTERS = re.compile(r"[!-~]+")
_HOST_AND_PORT = re.compile(r"(?:\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?")
_OTHER_TARGET = re.compile(r"(dns|google-c2p|ipv4|ipv6|unix|unix-abstract|vsock|xds):\S+")
_LOOPBACK = re.compile(r"localhost|127(\.\d{1,3}){3}|\[?::1\]?")


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
    name_override = [("grpc.ssl_target_name_override", server_name)] if server_name else []
    # The proxy of the environment, which gRPC would ask, is another machine.
    direct = [("grpc.enable_http_proxy", 0)] if is_local(address) else []
    credentials = None
    if not plaintext:
        root, chain, key = (_read_pem(given) for given in certificates)
        credentials = grpc.ssl_channel_credentials(root, key, chain)
    config = ("grpc.service_config", service_config())
    more_options = connect_options.get("options", ())
    options = [config, *CHANNEL_OPTIONS, *direct, *name_override, *more_options]
    return Target(address, credentials, options)


def uses_plaintext(address: str, plaintext: bool | None, certificates: Iterable[object]) -> bool:  # noqa: FBT001 - an option
    """Return whether a channel uses plain text, by its options or by default."""
    if plaintext is not None:
        return plaintext
    return is_local(address) and all(given is None for given in certificates)


def check_address(address: str) -> None:
    """Raise `ValueError` unless gRPC can read an address."""
    found = _HOST_AND_PORT.fullmatch(address)
    is_endpoint = found is not None and (found[1] is None or 0 < int(found[1]) <= MAX_PORT)
    if not is_endpoint and not _OTHER_TARGET.fullmatch(address):
        raise ValueError(
            "the address must be host:port, [address]:port, unix:path or another target of gRPC"
        )


def is_local(address: str) -> bool:
    """Return whether an address is on this machine: loopback or a unix socket."""
    scheme, _, rest = address.rpartition("://")
    if address.startswith(("unix:", "unix-abstract:")) or scheme == "unix":
        return True
    endpoints = re.sub(r"^(ipv4|ipv6|dns):", "", rest.rpartition("/")[2]).split(",")
    hosts = (re.sub(r"(?<=[^:]):\d+$", "", endpoint) for endpoint in endpoints)
    return all(_LOOPBACK.fullmatch(host) for host in hosts)


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
