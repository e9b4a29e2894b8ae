"""The test vectors of WebAuthn Level 3, sections 16.2 to 16.7, made with other software.

https://www.w3.org/TR/webauthn-3/#sctn-test-vectors
"""

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tamatar_auth.errors.factors import ProofCause
from tamatar_auth.security.passkey_options import RelyingParty
from tamatar_auth.security.passkeys import PasskeyVerifier, StoredPasskey, WrongCredential
from tests.support.soft_authenticator import base64url

VECTORS = json.loads(Path(__file__).with_name("webauthn_vectors.json").read_text("utf-8"))
VERIFIER = PasskeyVerifier(RelyingParty("example.org", ("https://example.org",), "W3C"))
IN_A_FRAME = {"none.ES256.crossOrigin", "none.ES256.topOrigin"}
ON_A_PAGE = sorted(VECTORS.keys() - IN_A_FRAME)


def answer(vector, part):
    names = {
        "registration": ("attestationObject", "clientDataJSON"),
        "authentication": ("authenticatorData", "clientDataJSON", "signature"),
    }[part]
    credential_id = base64url(bytes.fromhex(vector["registration"]["credential_id"]))
    response = {name: base64url(bytes.fromhex(vector[part][name])) for name in names}
    content = {"id": credential_id, "rawId": credential_id, "type": "public-key"}
    return json.dumps(content | {"response": response})


def registration(vector, verifier=VERIFIER):
    challenge = bytes.fromhex(vector["registration"]["challenge"])
    return verifier.verify_registration(answer(vector, "registration"), challenge=challenge)


def assertion(vector, registered, **policy: Any):
    known = StoredPasskey(
        UUID(int=1), registered.public_key, registered.sign_count, registered.is_backup_eligible
    )
    challenge = bytes.fromhex(vector["authentication"]["challenge"])
    content = answer(vector, "authentication")
    options = {"must_verify_user": False} | policy
    return VERIFIER.verify_assertion(content, known, challenge=challenge, **options)


@pytest.mark.parametrize("name", ON_A_PAGE)
def test_vector_of_the_specification_verifies(name):
    vector = VECTORS[name]

    registered = registration(vector)

    assert registered.credential.value.hex() == vector["registration"]["credential_id"]
    assert registered.aaguid == UUID(vector["registration"]["aaguid"])
    assert assertion(vector, registered)


@pytest.mark.parametrize("name", sorted(IN_A_FRAME))
def test_vector_of_a_frame_in_another_page_is_refused(name):
    with pytest.raises(WrongCredential):
        registration(VECTORS[name])


@pytest.mark.parametrize("name", ["none.ES256", "packed-self.ES256"])
def test_vector_without_user_verification_is_refused(name):
    registered = registration(VECTORS[name])

    with pytest.raises(WrongCredential) as caught:
        assertion(VECTORS[name], registered, must_verify_user=True)

    assert caught.value.cause is ProofCause.NOT_VERIFIED_BY_PASSKEY


@pytest.mark.parametrize(
    "party",
    [
        RelyingParty("example.com", ("https://example.org",), "W3C"),
        RelyingParty("example.org", ("https://example.com",), "W3C"),
    ],
)
def test_vector_of_another_service_is_refused(party):
    with pytest.raises(WrongCredential):
        registration(VECTORS["none.ES256"], PasskeyVerifier(party))
