"""The types of settings that name pages: their domain, and their origins."""

import ipaddress
import re
from typing import Annotated, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from tamatar_auth.config.types import WordList, empty_as_none

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.ASCII)
_ORIGIN = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9.-]+)(?::(?P<port>[1-9]\d{0,4}))?", re.ASCII
)
_DEFAULT_PORTS = {"https": "443", "http": "80"}
_MAX_PORT = 65_535
_LOCAL = "localhost"


def host_of(origin: str) -> str:
    """Return the host of an origin that was checked."""
    return urlsplit(origin).hostname or ""


def is_within(host: str, domain: str) -> bool:
    """Return whether a host is a domain, or below it."""
    return host == domain or host.endswith(f".{domain}")


def _check_domain(value: str) -> str:
    if not _DOMAIN.fullmatch(value) or _is_ip_address(value):
        raise ValueError("must be a domain such as example.com: no address, no port, no scheme")
    return value


def _check_origins(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if fault := _fault_of(value):
            raise ValueError(fault)
    return values


def _fault_of(origin: str) -> str:
    match = _ORIGIN.fullmatch(origin)
    if match is None or not _DOMAIN.fullmatch(match["host"]) or int(match["port"] or 0) > _MAX_PORT:
        return "must be origins such as https://login.example.com: lower case, without a path"
    if _is_ip_address(match["host"]):
        return "must have domains: browsers make no passkeys for addresses"
    if match["scheme"] == "http" and not is_within(match["host"], _LOCAL):
        return "must begin with https://, except for localhost"
    if match["port"] == _DEFAULT_PORTS[match["scheme"]]:
        return "must leave out the default port, as browsers do"
    return ""


def _is_ip_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        # Browsers read a host whose last label is a number as an IPv4 address.
        return host.rpartition(".")[2].isdecimal()
    return True


Domain: TypeAlias = Annotated[
    Annotated[str, Field(max_length=253), AfterValidator(_check_domain)] | None,
    BeforeValidator(empty_as_none),
]
Origins: TypeAlias = Annotated[WordList, AfterValidator(_check_origins)]
