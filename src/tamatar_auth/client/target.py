"""Where the service is, and how it is spoken to."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import grpc

from tamatar_auth.client.call_defaults import service_config

Token = str | Callable[[], str]
"""A caller's token, or what returns it: asked for each call, so it can be rotated."""

CHANNEL_OPTIONS: tuple[tuple[str, Any], ...] = (
    # The server throws out who pings more often than every 9 seconds.
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # By itself gRPC waits up to two minutes before it connects again.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 3_000),
    # Answers about a thousand sessions are more than the usual 4 MiB.
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
)

_TOKEN_CHARACTERS = re.compile(r"[!-~]+")
_LOOPBACK = re.compile(r"localhost|127(\.\d{1,3}){3}|\[?::1\]?")


class ConnectOptions(TypedDict, total=False):
    """How a service is connected to; all of it is optional."""

    token: Token | None
    """The token of this caller, or a function that returns it for each call."""
    plaintext: bool | None
    """Whether nothing is encrypted. Unless told, that is so for addresses of this machine where
    no certificates are given."""
    root_certificates: bytes | Path | None
    """The authorities to trust, as PEM or where that is; the system's by default."""
    certificate: bytes | Path | None
    """What this caller shows where the service asks for it, with its `private_key`."""
    private_key: bytes | Path | None
    """The key of the certificate."""
    server_name: str | None
    """Whom the service's certificate names, where the address does not."""
    options: Sequence[tuple[str, Any]]
    """More of gRPC's options of a channel."""


@dataclass(frozen=True, slots=True)
class _CompleteOptions:
    """The same, with what stands for what is not given; refuses everything else."""

    token: Token | None = None
    plaintext: bool | None = None
    root_certificates: bytes | Path | None = None
    certificate: bytes | Path | None = None
    private_key: bytes | Path | None = None
    server_name: str | None = None
    options: Sequence[tuple[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Target:
    """A service that can be connected to."""

    address: str
    credentials: grpc.ChannelCredentials | None
    """None: it is spoken to in plain text."""
    options: Sequence[tuple[str, Any]]


def resolve_target(address: str, connect_options: ConnectOptions) -> Target:
    """Decide how an address is connected to.

    Raises `ValueError` for arguments that do not go together, `TypeError` for unknown ones.
    """
    options = _CompleteOptions(**connect_options)
    plaintext, server_name = options.plaintext, options.server_name
    certificate, private_key = options.certificate, options.private_key
    root_certificates = options.root_certificates
    certificates = (root_certificates, certificate, private_key)
    if (certificate is None) != (private_key is None):
        raise ValueError("a certificate goes with its private key")
    if plaintext is None:
        plaintext = is_local(address) and certificates == (None, None, None)
    if plaintext and certificates != (None, None, None):
        raise ValueError("certificates are of no use in plain text")
    name_override = [("grpc.ssl_target_name_override", server_name)] if server_name else []
    credentials = None
    if not plaintext:
        root, chain, key = (_read_pem(given) for given in certificates)
        credentials = grpc.ssl_channel_credentials(root, key, chain)
    config = ("grpc.service_config", service_config())
    return Target(
        address, credentials, [config, *CHANNEL_OPTIONS, *name_override, *options.options]
    )


def is_local(address: str) -> bool:
    """Tell whether an address is of this machine: loopback, or a unix socket."""
    scheme, _, rest = address.rpartition("://")
    if address.startswith(("unix:", "unix-abstract:")) or scheme == "unix":
        return True
    endpoints = re.sub(r"^(ipv4|ipv6|dns):", "", rest.rpartition("/")[2]).split(",")
    hosts = (re.sub(r"(?<=[^:]):\d+$", "", endpoint) for endpoint in endpoints)
    return all(_LOOPBACK.fullmatch(host) for host in hosts)


def bearer_metadata(token: Token | None) -> Sequence[tuple[str, str]]:
    """Return the metadata that shows who calls; raise `ValueError` where it cannot be sent.

    A token that was read from a file may end with its line.
    """
    if token is None:
        return ()
    text = (token if isinstance(token, str) else token()).strip()
    if not _TOKEN_CHARACTERS.fullmatch(text):
        raise ValueError("the token of this caller is empty, or has characters that none has")
    return (("authorization", f"Bearer {text}"),)


def _read_pem(given: bytes | Path | None) -> bytes | None:
    return given.read_bytes() if isinstance(given, Path) else given
