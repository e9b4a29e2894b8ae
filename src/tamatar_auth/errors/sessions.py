"""The failures that are about sessions."""

from grpc import StatusCode

from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar_auth.errors import Failure


class SessionUnknown(Failure):
    """No session has this token."""

    code = StatusCode.UNAUTHENTICATED
    reason = ErrorReason.SESSION_UNKNOWN
    message = "The session is not known."


class SessionExpired(Failure):
    """The session's life is over."""

    code = StatusCode.UNAUTHENTICATED
    reason = ErrorReason.SESSION_EXPIRED
    message = "The session has expired."


class SessionRevoked(Failure):
    """The session was revoked."""

    code = StatusCode.UNAUTHENTICATED
    reason = ErrorReason.SESSION_REVOKED
    message = "The session was revoked."


class SessionIdle(Failure):
    """The session was not in use for longer than it may rest."""

    code = StatusCode.UNAUTHENTICATED
    reason = ErrorReason.SESSION_IDLE
    message = "The session was not in use for too long."


class SessionReused(Failure):
    """A session was refreshed with a replaced token, so it was revoked."""

    code = StatusCode.UNAUTHENTICATED
    reason = ErrorReason.SESSION_REUSED
    message = "The session's token was used again after it had been replaced."

    def __init__(self, user_id: object = None, session_id: object = None) -> None:
        super().__init__()
        ids = {"user_id": user_id, "session_id": session_id}
        self.audit_details = {name: str(value) for name, value in ids.items() if value}


class UserInactive(Failure):
    """The session's user is deactivated or deleted."""

    code = StatusCode.UNAUTHENTICATED
    reason = ErrorReason.USER_INACTIVE
    message = "The user is not active."


class SessionNotFound(Failure):
    """There is no such session."""

    code = StatusCode.NOT_FOUND
    reason = ErrorReason.SESSION_NOT_FOUND
    message = "There is no such session."
