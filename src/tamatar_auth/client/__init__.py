"""The client for services that call Tamatar Auth: `pip install tamatar-auth` is all it needs.

`tamatar_auth.client.aio` is the same client for asyncio. `tamatar_auth.client.testing` has a fake
service for tests.
"""

from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar_auth.client.connect import AuthClient, connect
from tamatar_auth.client.current_session import (
    CurrentSession,
    current_session,
    find_current_session,
)
from tamatar_auth.client.errors import (
    AlreadyExistsError,
    AuthError,
    BusyError,
    CallerError,
    ConflictError,
    CredentialsError,
    InvalidRequestError,
    NotFoundError,
    PreconditionError,
    SessionError,
    StepUpRequiredError,
    UnavailableError,
)
from tamatar_auth.client.guard import SessionGuard
from tamatar_auth.client.method_rules import OPEN_METHODS
from tamatar_auth.client.step_up import AAL1, AAL2, StepUp

__all__ = [
    "AAL1",
    "AAL2",
    "OPEN_METHODS",
    "AlreadyExistsError",
    "AuthClient",
    "AuthError",
    "BusyError",
    "CallerError",
    "ConflictError",
    "CredentialsError",
    "CurrentSession",
    "ErrorReason",
    "InvalidRequestError",
    "NotFoundError",
    "PreconditionError",
    "SessionError",
    "SessionGuard",
    "StepUp",
    "StepUpRequiredError",
    "UnavailableError",
    "connect",
    "current_session",
    "find_current_session",
]
