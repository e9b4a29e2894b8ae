"""The failures about sessions."""

from collections.abc import Mapping

from tamatar_auth.errors import NO_METADATA, Failure


class SessionUnknown(Failure):
    """No session has this token."""

    code = "UNAUTHENTICATED"
    reason = "SESSION_UNKNOWN"
    message = "The session is not known."


class SessionExpired(Failure):
    """The session's lifetime has ended."""

    code = "UNAUTHENTICATED"
    reason = "SESSION_EXPIRED"
    message = "The session has expired."


class SessionRevoked(Failure):
    """The session was revoked."""

    code = "UNAUTHENTICATED"
    reason = "SESSION_REVOKED"
    message = "The session was revoked."


class SessionIdle(Failure):
    """The session was unused for longer than the idle limit."""

    code = "UNAUTHENTICATED"
    reason = "SESSION_IDLE"
    message = "The session was unused for too long."


class SessionReused(Failure):
    """A replaced token was used to refresh the session, so the session was revoked."""

    code = "UNAUTHENTICATED"
    reason = "SESSION_REUSED"
    message = "The session token was used again after its replacement."

    def __init__(self, user_id: object = None, session_id: object = None) -> None:
        super().__init__()
        ids = {"user_id": user_id, "session_id": session_id}
        self.audit_details = {name: str(value) for name, value in ids.items() if value}


class UserInactive(Failure):
    """The session's user is deactivated or deleted."""

    code = "UNAUTHENTICATED"
    reason = "USER_INACTIVE"
    message = "The user is not active."


class SessionNotFound(Failure):
    """There is no such session."""

    code = "NOT_FOUND"
    reason = "SESSION_NOT_FOUND"
    message = "There is no such session."


class StepUpRequired(Failure):
    """The session is good, but not authenticated as strongly or recently as was asked for."""

    code = "UNAUTHENTICATED"
    reason = "STEP_UP_REQUIRED"
    message = "The session needs a stronger or more recent authentication."

    def __init__(self, missing: Mapping[str, str] = NO_METADATA) -> None:
        super().__init__()
        self.metadata = missing
