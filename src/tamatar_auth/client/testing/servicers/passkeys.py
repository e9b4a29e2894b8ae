"""The ceremonies of passkeys in the fake service."""

import hashlib
import hmac
import json
from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from tamatar.auth.v1 import factor_service_pb2 as pb
from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar.auth.v1.factor_pb2 import Passkey
from tamatar_auth.client.testing.errors import RefusedError
from tamatar_auth.client.testing.passkeys import ORIGIN, opened, signature
from tamatar_auth.client.testing.servicers.requirements import require_step_up
from tamatar_auth.client.testing.servicers.users import get_user
from tamatar_auth.client.testing.store import FakeStore
from tamatar_auth.client.testing.store.challenges import (
    ChallengePurpose,
    ChallengeRecord,
    base64url,
)
from tamatar_auth.client.testing.store.factors import PASSKEY, FactorRecord, UseProof

RELYING_PARTY_ID, ISSUER_NAME = "localhost", "Tamatar Auth"
"""The settings of a real service in development."""

_TIMEOUT = 300_000
_ALGORITHMS = (-7, -8, -257)


class Proof(NamedTuple):
    """A right proof, which is not used yet."""

    user_id: str
    methods: frozenset[str]
    """The words of RFC 8176."""
    use: UseProof


class FakePasskeyMethods:
    """Registers passkeys."""

    def __init__(self, store: FakeStore) -> None:
        self._store = store

    def BeginPasskeyRegistration(
        self, request: pb.BeginPasskeyRegistrationRequest
    ) -> pb.BeginPasskeyRegistrationResponse:
        user = get_user(self._store, request.user_id).user
        require_step_up(self._store, request.step_up, user.user_id)
        self._store.factors.require_room(user.user_id)
        challenge = self._store.challenges.issue(ChallengePurpose.REGISTRATION, user.user_id)
        options = {
            "rp": {"name": ISSUER_NAME, "id": RELYING_PARTY_ID},
            "user": {
                "id": user_handle(user.user_id),
                "name": user.email,
                "displayName": user.full_name or user.email,
            },
            "challenge": challenge.webauthn,
            "pubKeyCredParams": [{"type": "public-key", "alg": alg} for alg in _ALGORITHMS],
            "timeout": _TIMEOUT,
            "excludeCredentials": allowed_passkeys(self._store, user.user_id),
            "authenticatorSelection": {
                "residentKey": "required",
                "requireResidentKey": True,
                "userVerification": "preferred",
            },
            "attestation": "none",
        }
        return pb.BeginPasskeyRegistrationResponse(
            registration_token=challenge.token,
            creation_options_json=json.dumps(options),
            expire_time=challenge.expire_time,
        )

    def FinishPasskeyRegistration(
        self, request: pb.FinishPasskeyRegistrationRequest
    ) -> pb.FinishPasskeyRegistrationResponse:
        challenges = self._store.challenges
        challenge = challenges.answer(request.registration_token, [ChallengePurpose.REGISTRATION])
        credential_id, response = _credential(request.credential_json)
        data = _checked_data(response, "webauthn.create", "attestationObject", challenge)
        self._store.factors.require_room(challenge.user_id)
        if self._store.factors.find_passkey(credential_id):
            raise RefusedError(ErrorReason.PASSKEY_TAKEN)
        record = self._store.factors.add_passkey(challenge.user_id, request.label)
        record.credential_id, record.key = credential_id, bytes.fromhex(data["key"])
        record.sign_count = data["signCount"]
        record.factor.passkey.CopyFrom(
            Passkey(
                backup_eligible=data["isBackupEligible"], transports=response.get("transports", [])
            )
        )
        challenges.use(challenge)
        return pb.FinishPasskeyRegistrationResponse(factor=record.factor)


def user_handle(user_id: str) -> str:
    """Return the id by which passkeys know a user."""
    return base64url(UUID(user_id).bytes)


def request_options(
    challenge: ChallengeRecord, allowed: Sequence[dict[str, Any]], *, must_verify_user: bool
) -> str:
    """Return the JSON with which a browser answers a challenge."""
    options = {
        "challenge": challenge.webauthn,
        "timeout": _TIMEOUT,
        "rpId": RELYING_PARTY_ID,
        "allowCredentials": [*allowed],
        "userVerification": "required" if must_verify_user else "preferred",
    }
    return json.dumps(options)


def named_passkeys(store: FakeStore, user_id: str) -> Sequence[dict[str, Any]]:
    """Return the passkeys of an address without their transports, as made-up ones have none."""
    return [{"id": each["id"], "type": each["type"]} for each in allowed_passkeys(store, user_id)]


def made_up_passkey(email: str) -> dict[str, Any]:
    """Return a passkey that does not exist, always the same one for an address."""
    credential_id = hashlib.sha256(email.encode()).digest()
    return {"id": base64url(credential_id), "type": "public-key"}


def check_passkey(
    store: FakeStore, challenge: ChallengeRecord, credential_json: str, *, must_verify_user: bool
) -> Proof:
    """Return the proof of the passkey that answers a challenge, or raise `RefusedError`."""
    credential_id, response = _credential(credential_json)
    record = store.factors.find_passkey(credential_id)
    data = _checked_data(response, "webauthn.get", "authenticatorData", challenge)
    if record is None or not _has_signed(record, response):
        raise RefusedError(ErrorReason.INVALID_PROOF)
    if challenge.user_id not in {"", record.factor.user_id}:
        raise RefusedError(ErrorReason.INVALID_PROOF)
    if must_verify_user and not data["isVerified"]:
        raise RefusedError(ErrorReason.INVALID_PROOF)
    kind = "swk" if record.factor.passkey.backup_eligible else "hwk"
    methods = {kind, "user", *(["mfa"] if data["isVerified"] else [])}
    use = store.factors.check_sign_count(record, data["signCount"])
    return Proof(record.factor.user_id, frozenset(methods), use)


def _has_signed(record: FactorRecord, response: Any) -> bool:
    expected = signature(record.key, response["clientDataJSON"], response["authenticatorData"])
    return hmac.compare_digest(expected, str(response.get("signature")))


def _credential(credential_json: str) -> tuple[str, Any]:
    """Return the id and the response of a credential, or raise `RefusedError`."""
    try:
        credential = json.loads(credential_json)
        return str(credential["id"]), dict(credential["response"])
    except (ValueError, KeyError, TypeError):
        raise RefusedError(ErrorReason.INVALID_PROOF) from None


def _checked_data(response: Any, kind: str, name: str, challenge: ChallengeRecord) -> Any:
    """Return what an authenticator says about a challenge, or raise `RefusedError`."""
    expected = {"type": kind, "challenge": challenge.webauthn, "origin": ORIGIN}
    try:
        data, said = opened(response[name]), opened(response["clientDataJSON"])
        if said == expected and data["rpId"] == RELYING_PARTY_ID:
            return data
    except (ValueError, KeyError, TypeError):
        pass
    raise RefusedError(ErrorReason.INVALID_PROOF)


def allowed_passkeys(store: FakeStore, user_id: str) -> Sequence[dict[str, Any]]:
    """Return the passkeys of a user as options name them."""
    return [
        {
            "id": record.credential_id,
            "type": "public-key",
            "transports": [*record.factor.passkey.transports],
        }
        for record in store.factors.confirmed(user_id, PASSKEY)
    ]
