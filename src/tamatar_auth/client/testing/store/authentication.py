"""How a user was authenticated, how strongly, and whether that is enough."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar.auth.v1.session_pb2 import AssuranceLevel, Session
from tamatar_auth.client.testing.errors import RefusedError

PASSWORD = frozenset({"pwd"})
TWO_FACTORS = frozenset({"mfa", "otp", "pwd"})
"""The words of RFC 8176 for a password, and for a password with a code."""

_POSSESSION = frozenset({"otp", "hwk", "swk"})


def authenticate(session: Session, methods: Iterable[str], at: datetime) -> None:
    """Record that the user of a session proved who they are, besides earlier proofs."""
    words = {*session.authentication_methods, *methods}
    if words & PASSWORD and words & _POSSESSION:
        words.add("mfa")
    is_strong = "mfa" in words
    session.assurance_level = (
        AssuranceLevel.ASSURANCE_LEVEL_AAL2 if is_strong else AssuranceLevel.ASSURANCE_LEVEL_AAL1
    )
    session.authentication_methods[:] = sorted(words)
    session.authenticate_time.FromDatetime(at)


def check_requirements(session: Session, request: Any, now: datetime) -> None:
    """Raise `RefusedError` if a session does not reach what a request asks for."""
    missing = {}
    if session.assurance_level < request.min_assurance_level:
        name = AssuranceLevel.Name(request.min_assurance_level)
        missing["assurance_level"] = name.removeprefix("ASSURANCE_LEVEL_")
    if request.HasField("max_authentication_age"):
        max_age = request.max_authentication_age.ToTimedelta()
        if now - session.authenticate_time.ToDatetime(tzinfo=UTC) > max_age:
            missing["max_authentication_age"] = f"{max_age.total_seconds():.6f}".rstrip("0").rstrip(
                "."
            )
    if missing:
        raise RefusedError(ErrorReason.STEP_UP_REQUIRED, metadata=missing)
