"""Records refused attempts, with the true cause that the caller is not told."""

from typing import Any

from grpc.aio import ServicerContext

from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar_auth.errors import Failure
from tamatar_auth.interceptors.base import Behaviour, Interceptor, Method
from tamatar_auth.security import audit
from tamatar_auth.security.audit import Event

FAILURE_EVENTS = {
    "CreateSession": Event.SIGN_IN_FAILED,
    "ChangePassword": Event.PASSWORD_CHANGE_FAILED,
    "ResetPassword": Event.PASSWORD_RESET_FAILED,
    "VerifyEmail": Event.EMAIL_VERIFICATION_FAILED,
}

AUDITED_REASONS = frozenset(
    {
        ErrorReason.INVALID_CREDENTIALS,
        ErrorReason.EMAIL_NOT_VERIFIED,
        ErrorReason.TOO_MANY_ATTEMPTS,
        ErrorReason.USER_TOKEN_INVALID,
    }
)
"""The refusals that are attempts; a field that breaks a rule is none."""


class AuditInterceptor(Interceptor):
    """Follows the methods that take a secret."""

    def wrap(self, behaviour: Behaviour, method: Method) -> Behaviour:
        """Record what the behaviour refuses."""
        failure_event = FAILURE_EVENTS.get(method.name)
        if failure_event is None and method.name != "RefreshSession":
            return behaviour

        async def audited(request: Any, context: ServicerContext[Any, Any]) -> Any:
            try:
                return await behaviour(request, context)
            except Failure as failure:
                if failure.reason == ErrorReason.SESSION_REUSED:
                    audit.record(Event.SESSION_REUSED, **failure.audit_details)
                elif failure_event is not None and failure.reason in AUDITED_REASONS:
                    audit.record(failure_event, **failure.audit_details)
                raise

        return audited
