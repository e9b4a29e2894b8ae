"""The methods of SessionService that sign users in."""

from collections.abc import Iterable
from typing import Any

from tamatar.auth.v1 import session_service_pb2 as pb
from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar.auth.v1.factor_pb2 import FactorKind
from tamatar.auth.v1.user_pb2 import User
from tamatar_auth.client.testing.errors import RefusedError
from tamatar_auth.client.testing.identifiers import normalize_email, normalize_username
from tamatar_auth.client.testing.servicers.passkeys import (
    Proof,
    allowed_passkeys,
    check_passkey,
    made_up_passkey,
    named_passkeys,
    request_options,
)
from tamatar_auth.client.testing.store import FakeStore
from tamatar_auth.client.testing.store.authentication import PASSWORD
from tamatar_auth.client.testing.store.challenges import ChallengePurpose, ChallengeRecord
from tamatar_auth.client.testing.store.factors import PASSKEY, RECOVERY_CODES, TOTP
from tamatar_auth.client.testing.store.sessions import SessionRecord
from tamatar_auth.client.testing.store.users import UserRecord

SIGN_IN, STEP_UP = ChallengePurpose.SIGN_IN, ChallengePurpose.STEP_UP
ANY_PASSKEY = ChallengePurpose.PASSKEY_SIGN_IN
NAMED_PASSKEY = ChallengePurpose.NAMED_PASSKEY_SIGN_IN


class FakeSignInMethods:
    """Signs users in with passwords, codes and passkeys."""

    def __init__(self, store: FakeStore) -> None:
        self._store = store

    def CreateSession(self, request: pb.CreateSessionRequest) -> pb.CreateSessionResponse:
        if request.HasField("email"):
            name, value = "email", normalize_email(request.email)
        else:
            name, value = "username", normalize_username(request.username)

        def matches(user: User) -> bool:
            return bool(value) and bool(getattr(user, name) == value)

        record = self._store.users.find_where(matches)
        if record is None or not record.has_password(request.password):
            raise RefusedError(ErrorReason.INVALID_CREDENTIALS)
        self._store.users.record_write(record)
        if not record.user.email_verified:
            raise RefusedError(ErrorReason.EMAIL_NOT_VERIFIED)
        if self._store.factors.has_second_factor(record.user.user_id):
            issued = self._store.challenges.issue(SIGN_IN, record.user.user_id)
            return pb.CreateSessionResponse(challenge=challenge_message(self._store, issued))
        started = self._start(record, PASSWORD, request)
        return pb.CreateSessionResponse(
            session=started.session, user=record.user, session_token=started.tokens[-1]
        )

    def BeginPasskeySignIn(
        self, request: pb.BeginPasskeySignInRequest
    ) -> pb.BeginPasskeySignInResponse:
        if not request.email:
            issued, allowed = self._store.challenges.issue(ANY_PASSKEY), []
        else:
            email = normalize_email(request.email)
            found = self._store.users.find_where(lambda user: user.email == email)
            user_id = found.user.user_id if found and found.user.is_active else ""
            allowed = [*named_passkeys(self._store, user_id)] or [made_up_passkey(email)]
            issued = self._store.challenges.issue(NAMED_PASSKEY, user_id or "nobody")
        options = request_options(issued, allowed, must_verify_user=True)
        return pb.BeginPasskeySignInResponse(
            challenge=pb.Challenge(
                challenge_token=issued.token,
                kinds=[PASSKEY],
                passkey_options_json=options,
                expire_time=issued.expire_time,
            )
        )

    def CompleteSignIn(self, request: pb.CompleteSignInRequest) -> pb.CompleteSignInResponse:
        challenge = self._store.challenges.answer(
            request.challenge_token, [SIGN_IN, ANY_PASSKEY, NAMED_PASSKEY]
        )
        proof = check_proof(self._store, challenge, request)
        record = self._store.users.find_where(lambda user: user.user_id == proof.user_id)
        if record is None or not record.user.is_active:
            raise RefusedError(ErrorReason.INVALID_PROOF)
        if not record.user.email_verified:
            raise RefusedError(ErrorReason.EMAIL_NOT_VERIFIED)
        self._store.challenges.use(challenge)
        proof.use()
        known = PASSWORD if challenge.purpose is SIGN_IN else frozenset()
        self._store.users.record_write(record)
        started = self._start(record, known | proof.methods, request)
        return pb.CompleteSignInResponse(
            session=started.session, user=record.user, session_token=started.tokens[-1]
        )

    def _start(self, record: UserRecord, methods: Iterable[str], request: Any) -> SessionRecord:
        user = record.user
        started = self._store.sessions.add(user.user_id, client=request.client, methods=methods)
        user.last_login_time.CopyFrom(started.session.create_time)
        return started


def challenge_message(
    store: FakeStore, issued: ChallengeRecord, *more: FactorKind.ValueType
) -> pb.Challenge:
    """Return a challenge that names the factors of its user, after some others."""
    message = pb.Challenge(challenge_token=issued.token, kinds=more, expire_time=issued.expire_time)
    for kind in (TOTP, RECOVERY_CODES, PASSKEY):
        found = store.factors.confirmed(issued.user_id, kind)
        if any(kind != RECOVERY_CODES or each.codes for each in found):
            message.kinds.append(kind)
    if PASSKEY in message.kinds:
        allowed = allowed_passkeys(store, issued.user_id)
        message.passkey_options_json = request_options(issued, allowed, must_verify_user=False)
    return message


def check_proof(store: FakeStore, challenge: ChallengeRecord, request: Any) -> Proof:
    """Return the proof of a request, or raise `RefusedError`."""
    user_id = challenge.user_id
    is_passwordless = challenge.purpose in {ANY_PASSKEY, NAMED_PASSKEY}
    kind = request.WhichOneof("proof")
    if kind == "passkey_credential_json":
        credential = request.passkey_credential_json
        return check_passkey(store, challenge, credential, must_verify_user=is_passwordless)
    if is_passwordless:
        raise RefusedError(ErrorReason.INVALID_PROOF)
    if kind == "password":
        if not store.users.get(user_id).has_password(request.password):
            raise RefusedError(ErrorReason.INVALID_PROOF)
        return Proof(user_id, PASSWORD, lambda: None)
    if kind == "totp_code":
        use = store.factors.check_totp_code(user_id, request.totp_code)
    else:
        use = store.factors.check_recovery_code(user_id, request.recovery_code)
    return Proof(user_id, frozenset({"otp"}), use)
