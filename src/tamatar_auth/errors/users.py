"""The failures about users and their credentials."""

from collections.abc import Mapping
from enum import StrEnum

from tamatar_auth.errors import Failure


class Cause(StrEnum):
    """The cause of a refused password, which no caller sees."""

    NO_USER = "no_user"
    INACTIVE_USER = "inactive_user"
    NO_PASSWORD = "no_password"  # noqa: S105 - a cause
    WRONG_PASSWORD = "wrong_password"  # noqa: S105 - a cause
    TOO_MANY_ATTEMPTS = "too_many_attempts"
    CHANGED_MEANWHILE = "changed_meanwhile"
    EMAIL_NOT_VERIFIED = "email_not_verified"


class UserNotFound(Failure):
    """No such user exists, or the user is deleted."""

    code = "NOT_FOUND"
    reason = "USER_NOT_FOUND"
    message = "There is no such user."


class EmailTaken(Failure):
    """The address belongs to another live user."""

    code = "ALREADY_EXISTS"
    reason = "EMAIL_TAKEN"
    message = "The email address is already registered."


class UsernameTaken(Failure):
    """The username belongs to another live user."""

    code = "ALREADY_EXISTS"
    reason = "USERNAME_TAKEN"
    message = "The username is already registered."


class UserNotDeleted(Failure):
    """Only a deleted user can be restored."""

    code = "FAILED_PRECONDITION"
    reason = "USER_NOT_DELETED"
    message = "The user is not deleted."


class EtagMismatch(Failure):
    """The user has changed since the caller read it."""

    code = "ABORTED"
    reason = "ETAG_MISMATCH"
    message = "The user has changed. Read it again."


class RequestIdReused(Failure):
    """The request id was used for a request with other content."""

    code = "ALREADY_EXISTS"
    reason = "REQUEST_ID_REUSED"
    message = "The request id was used for another user."


class UserIdTaken(Failure):
    """The id of an imported user belongs to another user."""

    code = "ALREADY_EXISTS"
    reason = "USER_ID_TAKEN"
    message = "The user id belongs to another user."


class ImportedDifferently(Failure):
    """The user was imported before with other content."""

    code = "ALREADY_EXISTS"
    reason = "IMPORTED_DIFFERENTLY"
    message = "The user was imported before with other content."


class InvalidCredentials(Failure):
    """The credentials do not allow a sign-in. The cause stays in the audit trail."""

    code = "UNAUTHENTICATED"
    reason = "INVALID_CREDENTIALS"
    message = "The credentials are not valid."

    def __init__(self, cause: Cause | None = None, user_id: object = None) -> None:
        super().__init__()
        self.audit_details = _audit_details(cause, user_id)


class EmailNotVerified(Failure):
    """The password is right, the address is not verified."""

    code = "FAILED_PRECONDITION"
    reason = "EMAIL_NOT_VERIFIED"
    message = (
        "The email address is not verified. Send it a token of CreateEmailVerification, and pass "
        "the token to VerifyEmail. Or create users with a verified address as an admin."
    )

    def __init__(self, user_id: object = None) -> None:
        super().__init__()
        self.audit_details = _audit_details(Cause.EMAIL_NOT_VERIFIED, user_id)


class TooManyAttempts(Failure):
    """Too many wrong passwords were tried. The next one is checked after `retry_after` seconds."""

    code = "RESOURCE_EXHAUSTED"
    reason = "TOO_MANY_ATTEMPTS"
    message = "Too many attempts. Try again later."
    retry_after = 1.0

    def __init__(self, retry_after: float = 1.0, user_id: object = None) -> None:
        super().__init__()
        self.retry_after = retry_after
        self.audit_details = _audit_details(Cause.TOO_MANY_ATTEMPTS, user_id)


class UserTokenInvalid(Failure):
    """The one-time secret cannot be used. No caller sees the cause."""

    code = "UNAUTHENTICATED"
    reason = "USER_TOKEN_INVALID"
    message = "The token is unknown, used, replaced or expired. Create a new one."


def _audit_details(cause: Cause | None, user_id: object) -> Mapping[str, str]:
    values = {"cause": cause, "user_id": user_id}
    return {name: str(value) for name, value in values.items() if value}
