"""What the guards have in common: which calls need a session, and what a refusal says."""

import enum
import logging
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NoReturn, Self, TypedDict

from google.protobuf.any_pb2 import Any as Packed
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode

from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar_auth.client.cache import SessionCache
from tamatar_auth.client.errors import (
    DETAILS_KEY,
    ERROR_DOMAIN,
    InvalidRequestError,
    SessionError,
    loggable,
)

OPEN_METHODS = (
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)
"""What a guard lets everybody call unless told otherwise: health and reflection."""

AUTHORIZATION = "authorization"
RECHECK_INTERVAL = 30.0
"""Seconds after which a stream that goes on is checked again."""

MAX_AGE = 30.0
"""Seconds for which an answer may be used again."""

CACHE_SIZE = 10_000
"""How many answers are kept: about 2 KB each."""

_TOKEN = re.compile(r"[!-~]{1,128}")
_BEARER = re.compile(r"bearer +(.*)", re.IGNORECASE | re.DOTALL)

log = logging.getLogger("tamatar_auth.client")


class GuardOptions(TypedDict, total=False):
    """What a guard may be told; all of it is optional."""

    open_methods: Iterable[str]
    """What needs no session: `shop.v1.Shop/List`, or a whole `shop.v1.Shop`."""
    optional_methods: Iterable[str]
    """What can be called without a session, but not with a bad one."""
    metadata_key: str
    """Where the token is. Only under `authorization` it follows `Bearer`."""
    recheck: float
    """Seconds after which a stream that goes on is checked again."""
    max_age: float
    """Seconds for which an answer of the service may be used again. The service tells at once
    which sessions end; while it cannot, it is asked each time. 0: it always is."""
    cache_size: int
    """About how many sessions at most an answer is kept."""


@dataclass(frozen=True, slots=True)
class GuardConfig:
    """The same, with what stands for what is not given; refuses everything else."""

    open_methods: Iterable[str] = OPEN_METHODS
    optional_methods: Iterable[str] = ()
    metadata_key: str = AUTHORIZATION
    recheck: float = RECHECK_INTERVAL
    max_age: float = MAX_AGE
    cache_size: int = CACHE_SIZE

    @property
    def rules(self) -> "MethodRules":
        """What each method needs."""
        return MethodRules(self.open_methods, self.optional_methods)

    @property
    def cache(self) -> SessionCache | None:
        """A new cache, or None if the service is always asked."""
        if not self.max_age or not self.cache_size:
            return None
        return SessionCache(max_age=self.max_age, size=self.cache_size)


class SessionRequirement(enum.Enum):
    """What a call has to bring."""

    NONE = enum.auto()
    OPTIONAL = enum.auto()
    REQUIRED = enum.auto()


class MethodRules:
    """Says of each method what it needs: a session, unless it is named.

    `shop.v1.Shop/List` names a method, `shop.v1.Shop` all of a service.
    """

    def __init__(self, open_methods: Iterable[str], optional_methods: Iterable[str]) -> None:
        self._open = _method_names(open_methods)
        self._optional = _method_names(optional_methods)

    def requirement(self, path: str) -> SessionRequirement:
        """Return what a method such as `/shop.v1.Shop/List` needs."""
        names = {path.lstrip("/"), path.lstrip("/").partition("/")[0]}
        if names & self._open:
            return SessionRequirement.NONE
        return (
            SessionRequirement.OPTIONAL if names & self._optional else SessionRequirement.REQUIRED
        )


class CallRejected(Exception):  # noqa: N818 - the caller's, not ours
    """A call is not let in."""

    def __init__(
        self, code: StatusCode, message: str, reason: str = "", details: bytes = b""
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason
        self.details = details

    @classmethod
    def unknown_session(cls) -> Self:
        """Refuse a call that brought no token, or one that cannot be any."""
        reason = ErrorReason.Name(ErrorReason.SESSION_UNKNOWN)
        message, packed = "The session is not known.", Packed()
        packed.Pack(ErrorInfo(reason=reason, domain=ERROR_DOMAIN))
        status = Status(code=StatusCode.UNAUTHENTICATED.value[0], message=message, details=[packed])
        return cls(StatusCode.UNAUTHENTICATED, message, reason, status.SerializeToString())

    @classmethod
    def from_error(cls, error: Exception) -> Self:
        """Refuse a call because its session is not good, or because nobody can tell."""
        if isinstance(error, InvalidRequestError):
            return cls.unknown_session()
        if not isinstance(error, SessionError):
            log.warning("a session cannot be checked: %s", loggable(error))
            return cls(StatusCode.UNAVAILABLE, "The session cannot be checked at the moment.")
        details = error.trailing_metadata().get(DETAILS_KEY) or b""
        return cls(
            StatusCode.UNAUTHENTICATED,
            error.details() or "",
            error.reason_name,
            details if isinstance(details, bytes) else details.encode(),
        )

    @property
    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        """What is sent with the status."""
        return ((DETAILS_KEY, self.details),) if self.details else ()

    def abort(self, context: Any) -> NoReturn:
        """End a call that runs on a thread; for coroutines await `abort_async`."""
        # Contexts on the threads of a server on asyncio have no abort_with_status.
        context.set_trailing_metadata(self.trailing_metadata)
        context.abort(self.code, self.message)
        raise self

    async def abort_async(self, context: Any) -> NoReturn:
        """End a call that runs on asyncio."""
        await context.abort(self.code, self.message, self.trailing_metadata)
        raise self


class RecheckTimer:
    """When a stream is to be checked again."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last = time.monotonic()

    def is_due(self) -> bool:
        """Tell whether the last check is too long ago; it is no more after this."""
        if time.monotonic() - self._last < self._seconds:
            return False
        self._last = time.monotonic()
        return True


def find_token(metadata: Iterable[Any], key: str) -> str | None:
    """Return the session's token that a call brings, or None if it brings nothing under the key.

    Raises `CallRejected` if that cannot be a token, or if there are several.
    """
    values = [value for name, value in metadata if name == key]
    if not values:
        return None
    if len(values) > 1 or not isinstance(values[0], str):
        raise CallRejected.unknown_session()
    return extract_token(values[0], is_bearer=key == AUTHORIZATION)


def extract_token(value: str, *, is_bearer: bool) -> str:
    """Return the token in a header's value, or raise `CallRejected`."""
    found = _BEARER.fullmatch(value) if is_bearer else None
    token = found[1] if found else value
    if (is_bearer and not found) or not _TOKEN.fullmatch(token):
        raise CallRejected.unknown_session()
    return token


def as_tuple(names: Iterable[str]) -> tuple[str, ...]:
    """Return names, or raise `TypeError` for one alone: it would be taken for its letters."""
    if isinstance(names, str):
        raise TypeError(f"a list is wanted: [{names!r}]")
    return tuple(names)


def _method_names(methods: Iterable[str]) -> frozenset[str]:
    return frozenset(name.lstrip("/") for name in as_tuple(methods))
