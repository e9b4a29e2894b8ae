"""What calling services import: `pip install tamatar-auth` brings all that it needs.

`tamatar_auth.client.aio` has the same for asyncio, `tamatar_auth.client.testing` a service for
the tests of those who call it.
"""

from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar_auth.client.connecting import AuthClient, connect
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
    UnavailableError,
)

__all__ = [
    "AlreadyExistsError",
    "AuthClient",
    "AuthError",
    "BusyError",
    "CallerError",
    "ConflictError",
    "CredentialsError",
    "ErrorReason",
    "InvalidRequestError",
    "NotFoundError",
    "PreconditionError",
    "SessionError",
    "UnavailableError",
    "connect",
]
