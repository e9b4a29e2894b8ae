"""The checks of what browsers answer when they make and use passkeys.

The library `webauthn` checks the ceremonies. This module bounds what reaches it, adds the checks
that it leaves to callers, and turns all of its exceptions into `WrongCredential`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self
from uuid import UUID

import webauthn
from webauthn.authentication.verify_authentication_response import VerifiedAuthentication
from webauthn.helpers import (
    base64url_to_bytes,
    bytes_to_base64url,
    encode_cbor,
)
from webauthn.helpers.structs import CredentialDeviceType
from webauthn.registration.verify_registration_response import VerifiedRegistration

from tamatar_auth.config.factors import ORIGINS, RELYING_PARTY_ID, FactorSettings
from tamatar_auth.errors.factors import FactorsNotConfigured, ProofCause
from tamatar_auth.security import authenticator_cbor
from tamatar_auth.security.assurance import Methods
from tamatar_auth.security.credential_json import AssertionJson, ClientDataJson, RegistrationJson
from tamatar_auth.security.factor_keys import SETTING as KEYS
from tamatar_auth.security.factor_keys import FactorKeys
from tamatar_auth.security.passkey_keys import is_usable
from tamatar_auth.security.passkey_options import (
    ALGORITHMS,
    CredentialId,
    RelyingParty,
    known_transports,
)


class WrongCredential(Exception):  # noqa: N818 - a fact, as the names of failures
    """The answer of a browser is not valid. The cause is for the audit trail alone."""

    def __init__(self, cause: ProofCause = ProofCause.WRONG_CREDENTIAL) -> None:
        super().__init__(cause)
        self.cause = cause


@dataclass(frozen=True, slots=True)
class StoredPasskey:
    """The facts about a registered passkey that its answers must match."""

    user_id: UUID
    public_key: bytes
    sign_count: int
    is_backup_eligible: bool


@dataclass(frozen=True, slots=True)
class Registration:
    """A new passkey."""

    credential: CredentialId
    public_key: bytes
    sign_count: int
    aaguid: UUID | None
    is_backup_eligible: bool
    is_backed_up: bool


@dataclass(frozen=True, slots=True)
class Assertion:
    """The right answer of a passkey."""

    sign_count: int
    is_backup_eligible: bool
    is_backed_up: bool
    verified_user: bool

    @property
    def methods(self) -> Methods:
        """The methods of authentication: a passkey that verified the user is several factors."""
        words = ["swk" if self.is_backup_eligible else "hwk", "user"]
        return Methods.of(*words, *(["mfa"] if self.verified_user else []))


class PasskeyVerifier:
    """Verifies the answers of browsers to the options of a relying party."""

    def __init__(self, relying_party: RelyingParty | None, missing: Sequence[str] = ()) -> None:
        self._relying_party = relying_party
        self._missing = missing

    @classmethod
    def load(cls, settings: FactorSettings, keys: FactorKeys, *, in_development: bool) -> Self:
        """Return the verifier for the relying party of the settings."""
        party = RelyingParty.load(settings, in_development=in_development)
        missing = [] if keys else [KEYS]
        return cls(party, [*missing, *([] if party else [RELYING_PARTY_ID, ORIGINS])])

    @property
    def relying_party(self) -> RelyingParty:
        """The relying party. Raise `FactorsNotConfigured` if settings of passkeys are missing."""
        if self._relying_party is None or self._missing:
            raise FactorsNotConfigured(self._missing)
        return self._relying_party

    def verify_registration(self, credential_json: str, *, challenge: bytes) -> Registration:
        """Return the passkey that a browser made, or raise `WrongCredential`."""
        party = self.relying_party
        with _as_wrong_credential():
            credential = RegistrationJson.model_validate_json(credential_json)
            _refuse_cross_origin(credential.response.client_data_json)
            answer = credential.model_dump(by_alias=True)
            answer["response"]["attestationObject"] = _without_attestation(
                credential.response.attestation_object
            )
            verified = webauthn.verify_registration_response(
                credential=answer,
                expected_challenge=challenge,
                expected_rp_id=party.id,
                expected_origin=[*party.origins],
                supported_pub_key_algs=ALGORITHMS,
            )
            if not is_usable(verified.credential_public_key):
                raise WrongCredential
            if verified.credential_id != base64url_to_bytes(credential.raw_id):
                raise WrongCredential
            aaguid = UUID(verified.aaguid)
            return Registration(
                CredentialId(
                    verified.credential_id, known_transports(credential.response.transports)
                ),
                verified.credential_public_key,
                verified.sign_count,
                aaguid if aaguid.int else None,
                _is_backup_eligible(verified),
                verified.credential_backed_up,
            )

    def verify_assertion(
        self,
        credential_json: str,
        stored: StoredPasskey,
        *,
        challenge: bytes,
        must_verify_user: bool,
    ) -> Assertion:
        """Return what a passkey has proved, or raise `WrongCredential`.

        Causes that accuse the user or the authenticator are named only after the signature was
        right: before that, anybody could have made the answer.
        """
        party = self.relying_party
        with _as_wrong_credential():
            credential = AssertionJson.model_validate_json(credential_json)
            _refuse_cross_origin(credential.response.client_data_json)
            authenticator_cbor.require_plain(
                base64url_to_bytes(credential.response.authenticator_data)
            )
            verified = webauthn.verify_authentication_response(
                credential=credential.model_dump(by_alias=True),
                expected_challenge=challenge,
                expected_rp_id=party.id,
                expected_origin=[*party.origins],
                credential_public_key=stored.public_key,
                credential_current_sign_count=0,
            )
            handle = credential.response.user_handle
            if handle and base64url_to_bytes(handle) != stored.user_id.bytes:
                raise WrongCredential
            if _is_backup_eligible(verified) is not stored.is_backup_eligible:
                raise WrongCredential
            if must_verify_user and not verified.user_verified:
                raise WrongCredential(ProofCause.NOT_VERIFIED_BY_PASSKEY)
            if went_back(stored.sign_count, verified.new_sign_count):
                raise WrongCredential(ProofCause.SIGN_COUNT_WENT_BACK)
            return Assertion(
                verified.new_sign_count,
                stored.is_backup_eligible,
                verified.credential_backed_up,
                verified.user_verified,
            )


def credential_id_of(credential_json: str) -> bytes | None:
    """Return the id of the passkey that an answer comes from, or None if it is malformed."""
    try:
        return base64url_to_bytes(AssertionJson.model_validate_json(credential_json).raw_id)
    except ValueError:
        return None


def went_back(stored_count: int, new_count: int) -> bool:
    """Return whether an authenticator that counts its signatures has not counted on."""
    return bool(stored_count or new_count) and new_count <= stored_count


def _is_backup_eligible(verified: VerifiedRegistration | VerifiedAuthentication) -> bool:
    return verified.credential_device_type is CredentialDeviceType.MULTI_DEVICE


@contextmanager
def _as_wrong_credential() -> Iterator[None]:
    # The library lets exceptions of cryptography, of cbor2 and of the standard library through.
    try:
        yield
    except WrongCredential:
        raise
    except Exception:  # noqa: BLE001 - see above
        raise WrongCredential from None


def _refuse_cross_origin(client_data_json: str) -> None:
    """Refuse an answer from a page in a frame of another origin: it may have been clickjacked."""
    client_data = ClientDataJson.model_validate_json(base64url_to_bytes(client_data_json))
    if client_data.cross_origin or client_data.top_origin is not None:
        raise WrongCredential


def _without_attestation(attestation_object: str) -> str:
    """Return an attestation object with its statement taken off.

    None is asked for. If a browser sends one anyway, nothing relies on it: its certificates need
    no check.
    """
    content = authenticator_cbor.decode(base64url_to_bytes(attestation_object))
    authenticator_cbor.require_plain(content["authData"])
    if content["fmt"] == "none":
        return attestation_object
    bare = {"fmt": "none", "attStmt": {}, "authData": content["authData"]}
    return bytes_to_base64url(encode_cbor(bare))
