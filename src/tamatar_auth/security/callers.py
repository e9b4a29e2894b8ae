"""Callers: the services that may call, their credentials and their roles."""

import time
from collections.abc import Collection, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from tamatar_auth.errors import CallerNotAllowed, CallerUnknown
from tamatar_auth.security.tokens import RandomToken, token_digest


class Role(StrEnum):
    """A set of methods that a caller may call; see `security/authorization.py`."""

    VALIDATOR = "validator"
    ACCOUNTS = "accounts"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Caller:
    """A service that calls this one."""

    name: str
    roles: frozenset[Role]


LOCAL_CALLER = Caller("local", frozenset({Role.ADMIN}))
"""All callers from this machine while no callers are configured."""

current_caller: ContextVar[Caller | None] = ContextVar("current_caller", default=None)
"""The caller of the current call; None for methods without authentication, such as health."""


def caller_name() -> str | None:
    """Return the name of the current caller, or None if the method has no authentication."""
    caller = current_caller.get()
    return caller.name if caller else None


def get_caller() -> Caller:
    """Return the current caller, or raise `CallerUnknown`."""
    caller = current_caller.get()
    if caller is None:
        raise CallerUnknown
    return caller


def require_role(role: Role) -> None:
    """Raise `CallerNotAllowed` unless the current caller has a role."""
    caller = current_caller.get()
    if caller is None or role not in caller.roles:
        raise CallerNotAllowed([role])


class CallerToken(RandomToken):
    """The bearer token of a caller."""

    PREFIX = "tmc_"


@dataclass(frozen=True, slots=True)
class CallerCredentials:
    """The credentials of one caller."""

    caller: Caller
    tokens: Mapping[bytes, datetime]
    """The digests of its bearer tokens, and their expiry."""
    names: Collection[str]
    """The names in its certificates: SPIFFE ids, and DNS names as `dns_name` returns them."""


def dns_name(host: str) -> str:
    """Return a DNS name with a prefix that no SPIFFE id has."""
    return f"dns:{host.lower()}"


class Callers:
    """The known callers, indexed by token and by certificate name."""

    def __init__(self, known: Iterable[CallerCredentials]) -> None:
        self.known = tuple(known)
        # The time of a dict lookup may depend on how much of a digest matches. That helps no
        # attacker: the digest of a guessed token is random, and does not lead to its token.
        self._by_digest = {
            digest: (credentials.caller, expires.timestamp())
            for credentials in self.known
            for digest, expires in credentials.tokens.items()
        }
        self._by_name = {
            name: credentials.caller for credentials in self.known for name in credentials.names
        }

    def find_by_token(self, token: str) -> Caller | None:
        """Return the caller of a bearer token, or None if it is unknown or expired.

        This machine's clock decides, because callers are not rows of the database.
        """
        caller, expires = self._by_digest.get(token_digest(token), (None, 0.0))
        return caller if time.time() < expires else None

    def find_token_owner(self, token: str) -> Caller | None:
        """Return the caller of a token that may have expired, so it authenticates no call."""
        return self._by_digest.get(token_digest(token), (None, 0.0))[0]

    def find_by_names(self, names: Iterable[str]) -> Collection[Caller]:
        """Return the callers that the names in a certificate identify."""
        found = {self._by_name.get(name) for name in names}
        return {caller for caller in found if caller is not None}
