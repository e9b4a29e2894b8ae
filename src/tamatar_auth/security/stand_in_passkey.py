"""The passkey that answers are checked against if theirs is unknown: it takes the same time."""

from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from webauthn.helpers import encode_cbor
from webauthn.helpers.cose import COSECRV, COSEKTY, COSEAlgorithmIdentifier, COSEKey

from tamatar_auth.security.passkeys import StoredPasskey


def _new_public_key() -> bytes:
    """Return a public key whose private key is forgotten: no signature is right."""
    point = generate_private_key(SECP256R1()).public_key().public_numbers()
    return encode_cbor(
        {
            COSEKey.KTY: COSEKTY.EC2,
            COSEKey.ALG: COSEAlgorithmIdentifier.ECDSA_SHA_256,
            COSEKey.CRV: COSECRV.P256,
            COSEKey.X: point.x.to_bytes(32, "big"),
            COSEKey.Y: point.y.to_bytes(32, "big"),
        }
    )


STAND_IN = StoredPasskey(UUID(int=0), _new_public_key(), 0, is_backup_eligible=False)
"""A passkey that nobody has."""
