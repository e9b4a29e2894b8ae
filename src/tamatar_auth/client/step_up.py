"""How strongly and how recently the user of a call must be authenticated."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

from tamatar.auth.v1.session_pb2 import AssuranceLevel, Session
from tamatar.auth.v1.session_service_pb2 import ValidateSessionRequest

AAL1 = AssuranceLevel.ASSURANCE_LEVEL_AAL1
"""One factor, in the words of NIST SP 800-63B."""

AAL2 = AssuranceLevel.ASSURANCE_LEVEL_AAL2
"""Two factors, or a passkey that verified the user."""

_MIN_AGE, _MAX_AGE = timedelta(seconds=1), timedelta(days=30)


@dataclass(frozen=True, slots=True)
class StepUp:
    """How strongly and how recently the user of a call must be authenticated.

    >>> StepUp(level=AAL2, max_age=timedelta(minutes=5))
    """

    level: AssuranceLevel.ValueType = AssuranceLevel.ASSURANCE_LEVEL_UNSPECIFIED
    """The least level: `AAL1` or `AAL2`. By default any level is enough."""
    max_age: timedelta | None = None
    """The longest time since the user proved who they are, 1 second to 30 days. By default any
    time is enough."""

    def __post_init__(self) -> None:
        if not self.level and self.max_age is None:
            raise ValueError("a StepUp needs a level or a max_age")
        if self.level not in AssuranceLevel.values():
            raise ValueError("the level of a StepUp must be AAL1 or AAL2")
        if self.max_age is not None and not isinstance(self.max_age, timedelta):
            raise TypeError("the max_age of a StepUp must be a timedelta")
        if self.max_age is not None and not _MIN_AGE <= self.max_age <= _MAX_AGE:
            raise ValueError("the max_age of a StepUp must be 1 second to 30 days")

    @classmethod
    def strictest(cls, several: Iterable[Self]) -> Self:
        """Return what asks for all that several ask for."""
        each = list(several)
        ages = [one.max_age for one in each if one.max_age is not None]
        return cls(level=max(one.level for one in each), max_age=min(ages, default=None))

    @property
    def while_running(self) -> "StepUp | None":
        """What is asked for again while a stream runs: the level alone.

        A stream would otherwise end as soon as it ran for `max_age`.
        """
        return StepUp(level=self.level) if self.level else None

    def is_reached_by(self, session: Session, now: float) -> bool:
        """Return whether a session certainly reaches it at a time of this machine's clock.

        An authentication in the future shows that the clocks differ, so it is not certain.
        """
        if session.assurance_level < self.level or not session.HasField("authenticate_time"):
            return False
        if self.max_age is None:
            return True
        age = now - session.authenticate_time.ToMicroseconds() / 1e6
        return 0 <= age < self.max_age.total_seconds()

    def is_known_to(self, session: Session) -> bool:
        """Return whether the service that returned a session has checked it.

        A service of an earlier release ignores what it is asked for.
        """
        return session.assurance_level >= self.level and session.HasField("authenticate_time")


def require_step_ups(step_up: Mapping[Any, Any]) -> None:
    """Raise `TypeError` unless each key is a text, and each value a `StepUp`."""
    if not isinstance(step_up, Mapping):
        raise TypeError("step_up must map names to instances of StepUp")
    for name, needed in step_up.items():
        if not isinstance(name, str) or not isinstance(needed, StepUp):
            raise TypeError(f"step_up must map {name!r} to an instance of StepUp")


def validation_request(token: str, step_up: StepUp | None) -> ValidateSessionRequest:
    """Return the request that validates a token."""
    request = ValidateSessionRequest(session_token=token)
    if step_up is not None:
        request.min_assurance_level = step_up.level
        if step_up.max_age is not None:
            request.max_authentication_age.FromTimedelta(step_up.max_age)
    return request
