"""The requirements of sessions that calls name."""

from datetime import timedelta

from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar.auth.v1.factor_pb2 import StepUpRequirement
from tamatar.auth.v1.session_service_pb2 import ValidateSessionRequest
from tamatar_auth.client.step_up import AAL1, AAL2
from tamatar_auth.client.testing.errors import RefusedError
from tamatar_auth.client.testing.store import FakeStore
from tamatar_auth.client.testing.store.authentication import check_requirements

DEFAULT_MAX_AGE = timedelta(minutes=5)


def require_step_up(store: FakeStore, step_up: StepUpRequirement, user_id: str) -> None:
    """Raise `RefusedError` if a request names a session that is not strong or recent enough."""
    if not step_up.session_token:
        return
    session, _ = store.sessions.validate(step_up.session_token)
    if session.user_id != user_id:
        raise RefusedError(ErrorReason.SESSION_UNKNOWN)
    level = AAL2 if store.factors.has_second_factor(user_id) else AAL1
    required = ValidateSessionRequest(min_assurance_level=level)
    required.max_authentication_age.FromTimedelta(DEFAULT_MAX_AGE)
    if step_up.HasField("max_authentication_age"):
        required.max_authentication_age.CopyFrom(step_up.max_authentication_age)
    check_requirements(session, required, store.clock.now())
