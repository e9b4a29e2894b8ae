"""The options with which browsers make and use passkeys."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self, TypeAlias
from uuid import UUID

import webauthn
from webauthn.helpers.cose import COSEAlgorithmIdentifier
from webauthn.helpers.structs import (
    AttestationConveyancePreference,
    AuthenticatorSelectionCriteria,
    AuthenticatorTransport,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from tamatar_auth.config.factors import FactorSettings

ALGORITHMS = [
    COSEAlgorithmIdentifier.ECDSA_SHA_256,
    COSEAlgorithmIdentifier.EDDSA,
    COSEAlgorithmIdentifier.RSASSA_PKCS1_v1_5_SHA_256,
]
"""The algorithms of new passkeys: ES256, EdDSA with Ed25519, and RS256."""

TIMEOUT_MS = 300_000
"""Milliseconds in which the browser is to answer: the life of a challenge."""

DEVELOPMENT = ("localhost", ("http://localhost:8000",))
"""The domain and the origins in development."""

Transports: TypeAlias = tuple[str, ...]


class PasskeyUser(NamedTuple):
    """The user of a new passkey, as browsers show them."""

    id: UUID
    name: str
    display_name: str


class CredentialId(NamedTuple):
    """A passkey as options name it: its id, and how browsers reach its authenticator."""

    value: bytes
    transports: Transports = ()


@dataclass(frozen=True, slots=True)
class RelyingParty:
    """The service that passkeys belong to."""

    id: str
    """The domain of its pages, or one above it."""
    origins: Sequence[str]
    name: str

    @classmethod
    def load(cls, settings: FactorSettings, *, in_development: bool) -> Self | None:
        """Return the relying party of the settings, or None if they name none.

        Development has one on this machine.
        """
        if settings.passkey_relying_party_id is not None:
            origins = settings.passkey_origins
            return cls(settings.passkey_relying_party_id, origins, settings.issuer_name)
        return cls(*DEVELOPMENT, settings.issuer_name) if in_development else None

    def registration_options(
        self, user: PasskeyUser, *, challenge: bytes, registered: Sequence[CredentialId]
    ) -> str:
        """Return the JSON with which a browser makes a passkey."""
        options = webauthn.generate_registration_options(
            rp_id=self.id,
            rp_name=self.name,
            user_id=user.id.bytes,
            user_name=user.name,
            user_display_name=user.display_name,
            challenge=challenge,
            timeout=TIMEOUT_MS,
            attestation=AttestationConveyancePreference.NONE,
            authenticator_selection=AuthenticatorSelectionCriteria(
                resident_key=ResidentKeyRequirement.REQUIRED,
                user_verification=UserVerificationRequirement.PREFERRED,
            ),
            exclude_credentials=[*map(_descriptor, registered)],
            supported_pub_key_algs=ALGORITHMS,
        )
        return webauthn.options_to_json(options)

    def assertion_options(
        self, *, challenge: bytes, allowed: Sequence[CredentialId], must_verify_user: bool
    ) -> str:
        """Return the JSON with which a browser answers with one of the allowed passkeys.

        Without any, the browser offers all that it has for the relying party.
        """
        options = webauthn.generate_authentication_options(
            rp_id=self.id,
            challenge=challenge,
            timeout=TIMEOUT_MS,
            allow_credentials=[*map(_descriptor, allowed)],
            user_verification=UserVerificationRequirement.REQUIRED
            if must_verify_user
            else UserVerificationRequirement.PREFERRED,
        )
        return webauthn.options_to_json(options)


def _descriptor(credential: CredentialId) -> PublicKeyCredentialDescriptor:
    transports = [AuthenticatorTransport(name) for name in known_transports(credential.transports)]
    return PublicKeyCredentialDescriptor(credential.value, transports=transports or None)


def known_transports(transports: Sequence[str]) -> Transports:
    """Return the transports that the library knows, each once."""
    return tuple(transport.value for transport in AuthenticatorTransport if transport in transports)
