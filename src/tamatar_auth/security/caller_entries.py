"""The entries of `callers.toml` and the rules for their fields."""

import re
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, Strict

from tamatar_auth.security.callers import LOCAL_CALLER, Caller, CallerCredentials, Role, dns_name

MAX_CALLERS = 1000

_MAX_TOKENS = 8
_MAX_NAMES = 16
_HOST = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"


def _matches(pattern: str, rule: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(rule)
        return value

    return AfterValidator(check)


def _check_not_reserved(name: str) -> str:
    if name == LOCAL_CALLER.name:
        raise ValueError("is the name of all callers of a server without this file: choose another")
    return name


Name = Annotated[
    str,
    _matches(r"[a-z0-9][a-z0-9._-]{0,62}", "must be a name of a-z, 0-9, '.', '_' and '-'"),
    AfterValidator(_check_not_reserved),
]
Digest = Annotated[
    str, _matches(r"[0-9a-f]{64}", "must be the SHA-256 of a token: 64 digits of 0-9 and a-f")
]
SpiffeId = Annotated[
    str,
    Field(max_length=2048),
    _matches(
        r"spiffe://[a-z0-9._-]{1,255}(/(?!\.{1,2}(/|$))[A-Za-z0-9._-]+)+",
        "must be a SPIFFE id such as spiffe://example.com/gateway",
    ),
]
DnsName = Annotated[
    str,
    Field(max_length=253),
    _matches(rf"{_HOST}(\.{_HOST})*", "must be a DNS name in lower case, without wildcards"),
]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class TokenEntry(_Entry):
    """The digest of a token, and its expiry."""

    sha256: Digest
    expires: Annotated[AwareDatetime, Strict()]


class CallerEntry(_Entry):
    """One caller in the file."""

    roles: Annotated[frozenset[Role], Field(min_length=1)]
    tokens: Annotated[tuple[TokenEntry, ...], Field(max_length=_MAX_TOKENS)] = ()
    spiffe_ids: Annotated[tuple[SpiffeId, ...], Field(max_length=_MAX_NAMES)] = ()
    dns_names: Annotated[tuple[DnsName, ...], Field(max_length=_MAX_NAMES)] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names that identify the caller in a certificate."""
        return (*self.spiffe_ids, *(dns_name(host) for host in self.dns_names))

    def credentials(self, name: str) -> CallerCredentials:
        """Return the credentials that the server looks up."""
        return CallerCredentials(
            caller=Caller(name, self.roles),
            tokens={bytes.fromhex(token.sha256): token.expires for token in self.tokens},
            names=frozenset(self.names),
        )


class CallerEntries(_Entry):
    """The whole file."""

    callers: Annotated[dict[Name, CallerEntry], Field(max_length=MAX_CALLERS)] = {}
