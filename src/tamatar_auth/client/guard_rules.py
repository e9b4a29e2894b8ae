"""The rules that all guards share: options, tokens, and how a call is rejected."""

import logging
import re
import time
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NoReturn, Self, TypedDict

from google.protobuf.any_pb2 import Any as Packed
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode

from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar.auth.v1.session_service_pb2 import ValidateSessionResponse
from tamatar_auth.client.cache import SessionCache
from tamatar_auth.client.errors import (
    DETAILS_KEY,
    ERROR_DOMAIN,
    AuthError,
    InvalidRequestError,
    SessionError,
    StepUpRequiredError,
    loggable,
)
from tamatar_auth.client.method_rules import OPEN_METHODS, MethodRules, SessionRequirement
from tamatar_auth.client.step_up import StepUp

AUTHORIZATION = "authorization"
_TOKEN = re.compile(r"[!-~]{1,128}")
_BEARER = re.compile(r"bearer +(.*)", re.IGNORECASE | re.DOTALL)

_NO_ENDS = frozenset({"", ErrorReason.Name(ErrorReason.STEP_UP_REQUIRED)})
"""The reasons of rejections that leave the session as it is."""

_PASSING = {
    StatusCode.ABORTED,
    StatusCode.CANCELLED,  # by a server that stops
    StatusCode.DEADLINE_EXCEEDED,
    StatusCode.PERMISSION_DENIED,  # until the operator adds this caller
    StatusCode.RESOURCE_EXHAUSTED,
    StatusCode.UNAUTHENTICATED,
    StatusCode.UNAVAILABLE,
}
"""The statuses of calls that may succeed later."""

log = logging.getLogger("tamatar_auth.client")


class GuardOptions(TypedDict, total=False):
    """The options of a guard."""

    open_methods: Iterable[str]
    """The methods that need no session: `shop.v1.Shop/List`, or all of `shop.v1.Shop`."""
    optional_methods: Iterable[str]
    """The methods that may be called without a session, but not with an invalid one."""
    metadata_key: str
    """The metadata key of the token. Only under `authorization` the token follows `Bearer`."""
    recheck: float
    """Seconds after which the session of a running stream is checked again, 30 by default."""
    max_age: float
    """Seconds for which a response of the service is cached, 30 by default; 0 turns the cache off.
    The service sends the end of a session at once. While it cannot, each session is validated."""
    step_up: Mapping[str, StepUp]
    """The methods that need a stronger or more recent authentication than any session has:
    `{"shop.v1.Shop/Pay": StepUp(level=AAL2, max_age=timedelta(minutes=5))}`. Of a stream that runs,
    the level is checked again and the age is not."""
    cache_size: int
    """The number of cached responses, about 2 KB each; 10,000 by default."""


@dataclass(frozen=True, slots=True)
class GuardConfig:
    """`GuardOptions` with defaults. Unknown options raise `TypeError`."""

    open_methods: Iterable[str] = OPEN_METHODS
    optional_methods: Iterable[str] = ()
    metadata_key: str = AUTHORIZATION
    recheck: float = 30.0
    max_age: float = 30.0
    cache_size: int = 10_000
    step_up: Mapping[str, StepUp] = field(default_factory=dict)

    @property
    def rules(self) -> MethodRules:
        """The rule of each method. Raises `ValueError` if rules contradict each other."""
        return MethodRules(self.open_methods, self.optional_methods, self.step_up)

    @property
    def cache(self) -> SessionCache | None:
        """A new cache, or None if the cache is turned off."""
        if not self.max_age or not self.cache_size:
            return None
        return SessionCache(max_age=self.max_age, size=self.cache_size)


class CallRejected(Exception):  # noqa: N818 - an outcome of a check, not an error
    """A call is rejected, with the status to send."""

    def __init__(
        self, code: StatusCode, message: str, reason: str = "", details: bytes = b""
    ) -> None:
        super().__init__(message)
        self.code, self.message = code, message
        self.reason, self.details = reason, details
        self.missing: Mapping[str, str] = MappingProxyType({})
        """What a valid session lacks, as `STEP_UP_REQUIRED` documents it."""

    @property
    def is_end(self) -> bool:
        """Whether the service has refused the session, not its level or age."""
        return self.reason not in _NO_ENDS

    @classmethod
    def unknown_session(cls) -> Self:
        """Return the rejection of a call without a token, or with a malformed one."""
        reason = ErrorReason.Name(ErrorReason.SESSION_UNKNOWN)
        message, packed = "The session is not known.", Packed()
        packed.Pack(ErrorInfo(reason=reason, domain=ERROR_DOMAIN))
        status = Status(code=StatusCode.UNAUTHENTICATED.value[0], message=message, details=[packed])
        return cls(StatusCode.UNAUTHENTICATED, message, reason, status.SerializeToString())

    @classmethod
    def from_error(cls, error: AuthError) -> Self:
        """Return the rejection of a call whose session is invalid or cannot be checked now.

        Raises the error if it is of another kind, because it does not pass with time.
        """
        if isinstance(error, InvalidRequestError):
            return cls.unknown_session()
        if isinstance(error, SessionError):
            details = error.trailing_metadata().get(DETAILS_KEY) or b""
            rejection = cls(
                StatusCode.UNAUTHENTICATED,
                error.details() or "",
                error.reason_name,
                details if isinstance(details, bytes) else details.encode(),
            )
            if isinstance(error, StepUpRequiredError):
                rejection.missing = error.metadata
            return rejection
        if error.code() not in _PASSING:
            raise error
        log.warning("a session cannot be checked: %s", loggable(error))
        return cls.unchecked()

    @classmethod
    def unchecked(cls) -> Self:
        """Return the rejection of a call whose session cannot be checked now."""
        return cls(StatusCode.UNAVAILABLE, "The session cannot be checked at the moment.")

    @property
    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        """The metadata to send with the status."""
        return ((DETAILS_KEY, self.details),) if self.details else ()

    def abort(self, context: Any) -> NoReturn:
        """End a call that runs on a thread. Coroutines await `abort_async` instead."""
        # On a thread of an asyncio server the context has no abort_with_status.
        context.set_trailing_metadata(self.trailing_metadata)
        context.abort(self.code, self.message)
        raise self

    async def abort_async(self, context: Any) -> NoReturn:
        """End a call that runs on asyncio."""
        await context.abort(self.code, self.message, self.trailing_metadata)
        raise self


def as_rejection(error: Exception) -> CallRejected:
    """Return the rejection of a call whose check raised an error.

    An error that is no rejection is logged, without its text, which may hold a secret.
    """
    if isinstance(error, CallRejected):
        return error
    frames = traceback.extract_tb(error.__traceback__)
    where = ", ".join(f"{each.filename}:{each.lineno} in {each.name}" for each in frames)
    log.error("the check of a session failed: %s at %s", loggable(error), where)
    return CallRejected(StatusCode.INTERNAL, "The check of the session failed.")


def checked_response(
    response: ValidateSessionResponse, step_up: StepUp | None
) -> ValidateSessionResponse:
    """Return a response if the service has checked what it was asked for.

    Raises `CallRejected` otherwise: earlier releases ignore it.
    """
    if step_up is None or step_up.is_known_to(response.session):
        return response
    log.warning("the service does not know levels of sessions: it needs a newer release")
    raise CallRejected.unchecked()


class RecheckTimer:
    """Limits how often the session of a stream is checked."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last = time.monotonic()

    def is_due(self) -> bool:
        """Return whether a check is due, and start to wait for the next one if it is."""
        if time.monotonic() - self._last < self._seconds:
            return False
        self._last = time.monotonic()
        return True


def find_token(metadata: Iterable[Any], key: str, requirement: SessionRequirement) -> str | None:
    """Return the session token under a key of a call's metadata, or None if it needs none.

    Raises `CallRejected` if there is no token, a malformed one, or two.
    """
    values = [value for name, value in metadata if name == key]
    if not values and requirement is not SessionRequirement.REQUIRED:
        return None
    if len(values) != 1 or not isinstance(values[0], str):
        raise CallRejected.unknown_session()
    return extract_token(values[0], is_bearer=key == AUTHORIZATION)


def extract_token(value: str, *, is_bearer: bool) -> str:
    """Return the token in the value of a header, or raise `CallRejected`."""
    found = _BEARER.fullmatch(value) if is_bearer else None
    token = found[1] if found else value
    if (is_bearer and not found) or not _TOKEN.fullmatch(token):
        raise CallRejected.unknown_session()
    return token
