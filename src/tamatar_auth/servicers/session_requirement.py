"""Requirements of sessions: how strongly and how recently their users were authenticated."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import NamedTuple, TypeAlias
from uuid import UUID

from google.protobuf.duration_pb2 import Duration

from tamatar.auth.v1.factor_pb2 import StepUpRequirement
from tamatar.auth.v1.session_service_pb2 import (
    BatchValidateSessionsRequest,
    ValidateSessionRequest,
)
from tamatar_auth.errors import Failure
from tamatar_auth.errors.sessions import SessionUnknown, StepUpRequired
from tamatar_auth.security.assurance import Level, Methods
from tamatar_auth.security.tokens import session_day, token_digest
from tamatar_auth.storage.database import Scope
from tamatar_auth.storage.repositories.token_keys import TokenKey
from tamatar_auth.storage.session_validation.statement import (
    AUTHENTICATED_AT,
    METHODS,
    NOW,
    ValidatedRow,
)

DEFAULT_MAX_AGE = timedelta(minutes=5)
"""The age that a step-up may have before a change of factors, unless the request names another."""

ValidationRequest: TypeAlias = ValidateSessionRequest | BatchValidateSessionsRequest

_MICROSECOND = timedelta(microseconds=1)


class Requirement(NamedTuple):
    """The lowest level, and the longest time since the user was authenticated."""

    level: int = 0
    """A `Level`, or 0 for any."""
    max_age: int | None = None
    """Microseconds, or None for any."""

    def check(self, methods: str, age: int) -> None:
        """Raise `StepUpRequired`, with what is missing, unless methods and age suffice."""
        if missing := self._missing(methods, age):
            raise StepUpRequired(missing)

    def _missing(self, methods: str, age: int) -> Mapping[str, str]:
        missing = {}
        if self.level > Methods.parse(methods).level:
            missing["assurance_level"] = Level(self.level).name
        if self.max_age is not None and age > self.max_age:
            missing["max_authentication_age"] = f"{self.max_age / 1e6:.6f}".rstrip("0").rstrip(".")
        return missing


def token_key(token: str) -> TokenKey:
    """Return the key under which the session of a token is found."""
    return TokenKey(token_digest(token), session_day(token))


def require_validated(request: ValidationRequest, row: ValidatedRow) -> ValidatedRow:
    """Return a row that reaches what a request asks for, or raise `StepUpRequired`."""
    requirement = _requirement(request)
    if requirement is not None:
        requirement.check(row[METHODS], row[NOW] - row[AUTHENTICATED_AT])
    return row


def require_all_validated(
    request: ValidationRequest, results: Iterable[ValidatedRow | Failure]
) -> Iterable[ValidatedRow | Failure]:
    """Return the results, with `StepUpRequired` for sessions that do not reach what is asked."""
    requirement = _requirement(request)
    return results if requirement is None else _checked(requirement, results)


async def require_step_up(db: Scope, step_up: StepUpRequirement, user_id: UUID) -> None:
    """Require a strong and recent authentication of a user, if a request asks for it.

    Raise what ValidateSession raises, `SessionUnknown` for the session of another user, and
    `StepUpRequired`. The session of a user with a second factor must have AAL2.
    """
    if not step_up.session_token:
        return
    found = await db.authentications.get(token_key(step_up.session_token))
    if found.valid.user.id != user_id:
        raise SessionUnknown
    level = Level.AAL2 if found.has_second_factor else Level.AAL1
    asked = step_up.HasField("max_authentication_age")
    max_age = (
        _microseconds(step_up.max_authentication_age) if asked else DEFAULT_MAX_AGE // _MICROSECOND
    )
    methods = found.valid.session.authentication_methods
    Requirement(level, max_age).check(methods, found.age // _MICROSECOND)


def _requirement(request: ValidationRequest) -> Requirement | None:
    """Return what a request asks for, or None if it asks for nothing."""
    has_max_age = request.HasField("max_authentication_age")
    if not request.min_assurance_level and not has_max_age:
        return None
    max_age = _microseconds(request.max_authentication_age) if has_max_age else None
    return Requirement(request.min_assurance_level, max_age)


def _checked(
    requirement: Requirement, results: Iterable[ValidatedRow | Failure]
) -> Iterator[ValidatedRow | Failure]:
    for result in results:
        if isinstance(result, Failure):
            yield result
            continue
        try:
            requirement.check(result[METHODS], result[NOW] - result[AUTHENTICATED_AT])
        except StepUpRequired as failure:
            yield failure
        else:
            yield result


def _microseconds(length: Duration) -> int:
    return length.seconds * 1_000_000 + length.nanos // 1000
