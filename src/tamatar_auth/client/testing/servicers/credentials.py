"""The methods of UserService for passwords and one-time tokens."""

from uuid import UUID

from tamatar.auth.v1 import user_service_pb2 as pb
from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar_auth.client.testing.errors import RefusedError
from tamatar_auth.client.testing.identifiers import (
    check_password,
    normalize_email,
    normalize_password,
)
from tamatar_auth.client.testing.servicers.users import get_user
from tamatar_auth.client.testing.store import FakeStore
from tamatar_auth.client.testing.store.one_time_tokens import OneTimeToken, Purpose
from tamatar_auth.client.testing.store.users import UserRecord

VERIFICATION, RESET = Purpose.EMAIL_VERIFICATION, Purpose.PASSWORD_RESET
CHANGE = Purpose.EMAIL_CHANGE


class FakeCredentialMethods:
    """Changes passwords, and issues and consumes one-time tokens."""

    def __init__(self, store: FakeStore) -> None:
        self._store = store

    def ChangePassword(self, request: pb.ChangePasswordRequest) -> pb.ChangePasswordResponse:
        user_id, kept_id = str(UUID(request.user_id)), _optional_id(request.keep_session_id)
        record = self._store.users.find_where(lambda user: user.user_id == user_id)
        if record is None or not record.has_password(request.current_password):
            raise RefusedError(ErrorReason.INVALID_CREDENTIALS)
        check_password(request.new_password, "new_password")
        ended = self._set_password(record, request.new_password, kept_id)
        return pb.ChangePasswordResponse(user=record.user, revoked_session_count=ended)

    def CreateEmailVerification(
        self, request: pb.CreateEmailVerificationRequest
    ) -> pb.CreateEmailVerificationResponse:
        user = get_user(self._store, request.user_id).user
        token = self._store.tokens.issue(VERIFICATION, user)
        return pb.CreateEmailVerificationResponse(
            token=token.text, expire_time=token.expire_time, email=user.email
        )

    def VerifyEmail(self, request: pb.VerifyEmailRequest) -> pb.VerifyEmailResponse:
        token = self._store.tokens.get(VERIFICATION, request.token)
        record = self._owner(token)
        self._store.tokens.consume(VERIFICATION, token)
        record.user.email_verified = True
        self._store.users.record_change(record)
        return pb.VerifyEmailResponse(user=record.user)

    def CreateEmailChange(
        self, request: pb.CreateEmailChangeRequest
    ) -> pb.CreateEmailChangeResponse:
        email = normalize_email(request.email)
        user = get_user(self._store, request.user_id).user
        token = self._store.tokens.issue(CHANGE, user, new_email=email)
        return pb.CreateEmailChangeResponse(
            token=token.text, expire_time=token.expire_time, email=email
        )

    def ConfirmEmailChange(
        self, request: pb.ConfirmEmailChangeRequest
    ) -> pb.ConfirmEmailChangeResponse:
        token = self._store.tokens.get(CHANGE, request.token)
        record = self._owner(token)
        namesake = self._store.users.find_where(lambda user: user.email == token.new_email)
        if namesake is not None and namesake is not record:
            raise RefusedError(ErrorReason.EMAIL_TAKEN)
        record.user.email, record.user.email_verified = token.new_email, True
        self._store.users.record_change(record)
        self._store.revoke_secrets(record)
        return pb.ConfirmEmailChangeResponse(user=record.user, previous_email=token.email)

    def CreatePasswordReset(
        self, request: pb.CreatePasswordResetRequest
    ) -> pb.CreatePasswordResetResponse:
        email, tokens = normalize_email(request.email), self._store.tokens
        answer = pb.CreatePasswordResetResponse(email=email, expire_time=tokens.expiry(RESET))
        record = self._store.users.find_where(lambda user: user.is_active and user.email == email)
        if record is not None:
            answer.token = tokens.issue(RESET, record.user).text
        return answer

    def ResetPassword(self, request: pb.ResetPasswordRequest) -> pb.ResetPasswordResponse:
        token = self._store.tokens.get(RESET, request.token)
        check_password(request.new_password, "new_password")
        record = self._owner(token)
        record.user.email_verified = True
        ended = self._set_password(record, request.new_password)
        return pb.ResetPasswordResponse(user=record.user, revoked_session_count=ended)

    def _set_password(self, record: UserRecord, password: str, kept_id: str = "") -> int:
        """Set a password, end sessions and tokens, and return how many sessions were live."""
        record.password = normalize_password(password)
        self._store.users.record_change(record)
        self._store.revoke_secrets(record)
        return self._store.sessions.revoke_of_user(record.user.user_id, except_id=kept_id)

    def _owner(self, token: OneTimeToken) -> UserRecord:
        """Return the active user that owns a token and has its address, or raise `RefusedError`."""
        record = self._store.users.find_where(
            lambda user: user.user_id == token.user_id and user.email == token.email
        )
        if record is None or not record.user.is_active:
            raise RefusedError(ErrorReason.USER_TOKEN_INVALID)
        return record


def _optional_id(text: str) -> str:
    return str(UUID(text)) if text else ""
