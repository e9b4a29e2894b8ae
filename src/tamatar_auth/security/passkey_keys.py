"""The public keys of passkeys."""

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from webauthn.helpers import decode_credential_public_key, decoded_public_key_to_cryptography
from webauthn.helpers.cose import COSEAlgorithmIdentifier as Algorithm

RSA_BITS = range(2048, 4096 + 1)
"""The sizes of RSA keys. A longer key would make each sign-in slow."""

MAX_RSA_EXPONENT_BITS = 32
"""The most bits of their exponent, for the same reason."""


def is_usable(public_key: bytes) -> bool:
    """Return whether a key fits its algorithm and makes no check slow.

    A malformed key may raise an exception of any kind.
    """
    decoded = decode_credential_public_key(public_key)
    key = decoded_public_key_to_cryptography(decoded)
    match decoded.alg, key:
        case Algorithm.ECDSA_SHA_256, EllipticCurvePublicKey(curve=SECP256R1()):
            return True
        case Algorithm.EDDSA, Ed25519PublicKey():
            return True
        case Algorithm.RSASSA_PKCS1_v1_5_SHA_256, RSAPublicKey():
            exponent = key.public_numbers().e
            return key.key_size in RSA_BITS and exponent.bit_length() <= MAX_RSA_EXPONENT_BITS
        case _:
            return False
