"""The audit trail: one log record for each change of credentials and sessions.

docs/operate/audit.md documents the names of events and fields, which are stable. The records
identify users and sessions by id and contain no secret, address or name.
"""

from enum import StrEnum
from typing import Any
from uuid import UUID

import structlog

from tamatar_auth.observability.logs import AUDIT_LOGGER
from tamatar_auth.security.callers import current_caller

log = structlog.get_logger(AUDIT_LOGGER)


class Event(StrEnum):
    """The names of the events."""

    SIGN_IN_SUCCEEDED = "sign_in.succeeded"
    SIGN_IN_CHALLENGED = "sign_in.challenged"
    SIGN_IN_FAILED = "sign_in.failed"
    PASSWORD_CHANGED = "password.changed"  # noqa: S105 - an event
    PASSWORD_CHANGE_FAILED = "password.change_failed"  # noqa: S105 - an event
    PASSWORD_RESET_CREATED = "password.reset_created"  # noqa: S105 - an event
    PASSWORD_RESET = "password.reset"  # noqa: S105 - an event
    PASSWORD_RESET_FAILED = "password.reset_failed"  # noqa: S105 - an event
    EMAIL_VERIFICATION_CREATED = "email.verification_created"
    EMAIL_VERIFIED = "email.verified"
    EMAIL_VERIFICATION_FAILED = "email.verification_failed"
    EMAIL_CHANGE_CREATED = "email.change_created"
    EMAIL_CHANGED = "email.changed"
    EMAIL_CHANGE_FAILED = "email.change_failed"
    PASSKEY_REGISTERED = "passkey.registered"
    PASSKEY_REGISTRATION_FAILED = "passkey.registration_failed"
    SESSION_REFRESHED = "session.refreshed"
    SESSION_REVOKED = "session.revoked"
    SESSION_STEPPED_UP = "session.stepped_up"
    SESSION_STEP_UP_FAILED = "session.step_up_failed"
    SESSION_REUSED = "session.reused"
    SESSIONS_REVOKED = "sessions.revoked"
    FACTOR_CREATED = "factor.created"
    FACTOR_CONFIRMED = "factor.confirmed"
    FACTOR_CONFIRM_FAILED = "factor.confirm_failed"
    FACTOR_UPDATED = "factor.updated"
    FACTOR_DELETED = "factor.deleted"
    RECOVERY_CODES_CREATED = "recovery_codes.created"
    RECOVERY_CODE_USED = "recovery_code.used"
    USER_CREATED = "user.created"
    USER_DEACTIVATED = "user.deactivated"
    USER_ACTIVATED = "user.activated"
    USER_DELETED = "user.deleted"
    USER_RESTORED = "user.restored"
    USER_PURGED = "user.purged"
    USERS_IMPORTED = "users.imported"
    USERS_EXPORTED = "users.exported"
    CALLER_REFUSED = "caller.refused"


def record(
    event: Event,
    *,
    user_id: UUID | str | None = None,
    session_id: UUID | str | None = None,
    **facts: Any,
) -> None:
    """Record an event. Call this after the transaction has committed."""
    caller = current_caller.get()
    ids = {"user_id": str(user_id or "") or None, "session_id": str(session_id or "") or None}
    fields = {"caller": caller.name if caller else None, **facts, **ids}
    present_fields = {name: value for name, value in fields.items() if value is not None}
    log.info(event.value, audit=True, **present_fields)
