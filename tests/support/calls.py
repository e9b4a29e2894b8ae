"""Calls of tests to the service: builders of requests, and readers of refusals."""

from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import grpc
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode

from tamatar.auth.v1 import session_service_pb2, user_service_pb2
from tamatar.auth.v1.user_pb2 import User
from tamatar_auth.storage.database import Database

PASSWORD = "correct horse battery"
NEW_PASSWORD = "another horse battery"

INVALID_CREDENTIALS = (StatusCode.UNAUTHENTICATED, "INVALID_CREDENTIALS")
TOO_MANY_ATTEMPTS = (StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_ATTEMPTS")


def ada(**given: Any) -> user_service_pb2.CreateUserRequest:
    """Return a request that creates a user."""
    values = {"email": "ada@example.com", "password": PASSWORD, "first_name": "Ada"} | given
    return user_service_pb2.CreateUserRequest(**values)


def sign_in(**given: Any) -> session_service_pb2.CreateSessionRequest:
    """Return a request that signs Ada in, by default with her email address."""
    who = {} if "username" in given else {"email": "ada@example.com"}
    values = who | {"password": PASSWORD} | given
    return session_service_pb2.CreateSessionRequest(**values)


def validate(sessions: Any, token: str) -> Any:
    """Validate a session token."""
    return sessions.ValidateSession(session_service_pb2.ValidateSessionRequest(session_token=token))


def refresh(sessions: Any, token: str) -> Any:
    """Refresh a session."""
    return sessions.RefreshSession(session_service_pb2.RefreshSessionRequest(session_token=token))


def change(users: Any, user: User, **given: Any) -> Any:
    """Change a user's password."""
    passwords = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    values = {"user_id": user.user_id} | passwords | given
    return users.ChangePassword(user_service_pb2.ChangePasswordRequest(**values))


def verification(users: Any, user: User) -> Any:
    """Request a token that verifies a user's address."""
    request = user_service_pb2.CreateEmailVerificationRequest(user_id=user.user_id)
    return users.CreateEmailVerification(request)


def verify_email(users: Any, token: str) -> Any:
    """Verify an address with its token."""
    return users.VerifyEmail(user_service_pb2.VerifyEmailRequest(token=token))


def email_change(users: Any, user: User, email: str = "new@example.com") -> Any:
    """Request a token that changes a user's address."""
    request = user_service_pb2.CreateEmailChangeRequest(user_id=user.user_id, email=email)
    return users.CreateEmailChange(request)


def confirm_change(users: Any, token: str) -> Any:
    """Change an address with its token."""
    return users.ConfirmEmailChange(user_service_pb2.ConfirmEmailChangeRequest(token=token))


def password_reset(users: Any, email: str = "ada@example.com") -> Any:
    """Request a token that resets a password."""
    return users.CreatePasswordReset(user_service_pb2.CreatePasswordResetRequest(email=email))


def reset(users: Any, token: str, password: str = NEW_PASSWORD) -> Any:
    """Reset a password with its token."""
    request = user_service_pb2.ResetPasswordRequest(token=token, new_password=password)
    return users.ResetPassword(request)


async def verify(database: Database, user: User) -> None:
    """Mark the user's address as verified."""
    async with database.transaction() as tx:
        await tx.users.update(UUID(user.user_id), {"email_verified": True})


@dataclass(frozen=True)
class Refusal:
    """Everything that a status carries."""

    code: StatusCode
    message: str
    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)
    retry_seconds: float | None = None


async def refused(call: Awaitable[Any]) -> Refusal:
    """Await a call that must fail, and return its refusal."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return read_refusal(error)
    raise AssertionError(f"the call was answered: {type(answer).__name__}")


async def refusal(call: Awaitable[Any]) -> tuple[StatusCode, str]:
    """Await a call that must fail, and return its status and its reason."""
    said = await refused(call)
    return said.code, said.reason


def read_refusal(error: grpc.aio.AioRpcError) -> Refusal:
    """Read the details of a status."""
    packed = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    info, fields, retry = ErrorInfo(), BadRequest(), RetryInfo()
    status = Status.FromString(packed if isinstance(packed, bytes) else packed.encode())
    for detail in status.details:
        for known in (info, fields, retry):
            detail.Unpack(known)
    return Refusal(
        code=error.code(),
        message=error.details() or "",
        reason=info.reason,
        metadata=dict(info.metadata),
        fields={v.field: v.description for v in fields.field_violations},
        retry_seconds=retry.retry_delay.ToTimedelta().total_seconds()
        if retry.HasField("retry_delay")
        else None,
    )
