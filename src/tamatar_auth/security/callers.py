"""Who calls: the services that may, what they prove it with, and their roles."""

import hashlib
import secrets
import time
from collections.abc import Collection, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Self

from tamatar_auth.errors import CallerNotAllowed

CALLER_TOKEN_PREFIX = "tmc_"  # noqa: S105 - no password
"""Makes a leaked token recognisable to scanners of logs and repositories."""

_TOKEN_BYTES = 32


class Role(StrEnum):
    """What a caller may do; `security/authorization.py` says which methods that are."""

    VALIDATOR = "validator"
    ACCOUNTS = "accounts"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Caller:
    """A service that calls us."""

    name: str
    roles: frozenset[Role]


LOCAL_CALLER = Caller("local", frozenset({Role.ADMIN}))
"""Whoever calls from this machine while no callers are set up."""

current_caller: ContextVar[Caller | None] = ContextVar("current_caller", default=None)
"""Who makes the call that is being answered; None where nobody is asked, as by health."""


def require_role(role: Role) -> None:
    """Raise `CallerNotAllowed` unless who makes the call has a role."""
    caller = current_caller.get()
    if caller is None or role not in caller.roles:
        raise CallerNotAllowed([role])


@dataclass(frozen=True, slots=True)
class CallerToken:
    """A bearer token at the one moment it is known."""

    text: str = field(repr=False)

    @classmethod
    def issue(cls) -> Self:
        """Draw a new token."""
        return cls(CALLER_TOKEN_PREFIX + secrets.token_urlsafe(_TOKEN_BYTES))

    @property
    def digest(self) -> bytes:
        """What is kept of it."""
        return caller_token_digest(self.text)


def caller_token_digest(token: str) -> bytes:
    """Give the SHA-256 that stands for a caller's token: 32 bytes."""
    return hashlib.sha256(token.encode()).digest()


@dataclass(frozen=True, slots=True)
class CallerCredentials:
    """What a caller can prove itself with."""

    caller: Caller
    tokens: Mapping[bytes, datetime]
    """The digests of its bearer tokens, and when each stops working."""
    names: Collection[str]
    """What its certificates may be issued to: SPIFFE ids, and what `dns_name` gives."""


def dns_name(host: str) -> str:
    """Write a DNS name so that it cannot be mistaken for a SPIFFE id."""
    return f"dns:{host.lower()}"


class Callers:
    """The callers that are known, found by what they present."""

    def __init__(self, known: Iterable[CallerCredentials]) -> None:
        self.known = tuple(known)
        # A dict may tell by its time how much of a digest is right. That helps nobody: whoever
        # guesses tokens does not choose their digests, and a digest does not lead to its token.
        self._by_digest = {
            digest: (credentials.caller, expires.timestamp())
            for credentials in self.known
            for digest, expires in credentials.tokens.items()
        }
        self._by_name = {
            name: credentials.caller for credentials in self.known for name in credentials.names
        }

    def find_by_token(self, token: str) -> Caller | None:
        """Find the caller of a bearer token; None for one that is unknown or expired.

        The clock is this machine's: callers are no rows of the database.
        """
        caller, expires = self._by_digest.get(caller_token_digest(token), (None, 0.0))
        return caller if time.time() < expires else None

    def find_token_owner(self, token: str) -> Caller | None:
        """Find the caller of a token that may have expired. It proves nothing any more."""
        caller, _ = self._by_digest.get(caller_token_digest(token), (None, 0.0))
        return caller

    def find_by_names(self, names: Iterable[str]) -> Collection[Caller]:
        """Find the callers that the names in a certificate stand for."""
        found = {self._by_name.get(name) for name in names}
        return {caller for caller in found if caller is not None}
