"""Records rejected attempts with their true cause, which callers do not see."""

from typing import Any

from tamatar_auth.errors.factors import InvalidProof
from tamatar_auth.errors.sessions import SessionReused
from tamatar_auth.errors.users import (
    EmailNotVerified,
    InvalidCredentials,
    TooManyAttempts,
    UserTokenInvalid,
)
from tamatar_auth.interceptors.base import Behaviour, Context, Interceptor, Method
from tamatar_auth.security import audit
from tamatar_auth.security.audit import Event

FAILURE_EVENTS = {
    "CreateSession": Event.SIGN_IN_FAILED,
    "CompleteStepUp": Event.SESSION_STEP_UP_FAILED,
    "CompleteSignIn": Event.SIGN_IN_FAILED,
    "ConfirmTotpFactor": Event.FACTOR_CONFIRM_FAILED,
    "ChangePassword": Event.PASSWORD_CHANGE_FAILED,
    "ResetPassword": Event.PASSWORD_RESET_FAILED,
    "VerifyEmail": Event.EMAIL_VERIFICATION_FAILED,
    "ConfirmEmailChange": Event.EMAIL_CHANGE_FAILED,
    "FinishPasskeyRegistration": Event.PASSKEY_REGISTRATION_FAILED,
}

AUDITED_FAILURES = (
    InvalidCredentials,
    InvalidProof,
    EmailNotVerified,
    TooManyAttempts,
    UserTokenInvalid,
)
"""The failures that are attempts. A field that breaks a rule is not an attempt."""


class AuditInterceptor(Interceptor):
    """Records the rejected calls of methods that take a secret."""

    def wrap(self, behaviour: Behaviour, method: Method) -> Behaviour:
        """Record the attempts that the behaviour rejects."""
        failure_event = FAILURE_EVENTS.get(method.name)
        if failure_event is None and method.name != "RefreshSession":
            return behaviour

        async def audited(request: Any, context: Context) -> Any:
            try:
                return await behaviour(request, context)
            except SessionReused as failure:
                audit.record(Event.SESSION_REUSED, **failure.audit_details)
                raise
            except AUDITED_FAILURES as failure:
                if failure_event is not None:
                    audit.record(failure_event, **failure.audit_details)
                raise

        return audited
