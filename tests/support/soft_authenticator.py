"""An authenticator in software: it makes passkeys and signs challenges, as browsers send them.

It is written from the WebAuthn specification and shares no code with the server. Each fact that
the server checks can be made wrong by an argument.
"""

import base64
import hashlib
import json
import secrets
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

Algorithm: TypeAlias = Literal["ES256", "EdDSA", "RS256"]
PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

PRESENT, VERIFIED, BACKUP_ELIGIBLE, BACKED_UP = 1, 4, 8, 16
HAS_CREDENTIAL, HAS_EXTENSIONS = 64, 128


def base64url(content: bytes) -> str:
    """Return bytes as browsers write them into JSON."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def from_base64url(text: str) -> bytes:
    """Return the bytes of a text in JSON of a browser."""
    return base64.urlsafe_b64decode(text + "==")


@dataclass
class SoftPasskey:
    """One passkey in the authenticator."""

    relying_party_id: str
    user_handle: bytes
    algorithm: Algorithm = "ES256"
    is_backup_eligible: bool = False
    is_backed_up: bool = False
    counts: bool = False
    """Whether the authenticator counts its signatures."""
    origin: str = "http://localhost:8000"
    verifies_user: bool = True
    aaguid: bytes = bytes.fromhex("08987058cadc4b81b6e130de50dcbe96")
    credential_id: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    sign_count: int = 0
    key: PrivateKey = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.key = _new_key(self.algorithm)

    @classmethod
    def for_options(cls, creation_options_json: str, **facts: Any) -> "SoftPasskey":
        """Return a passkey for the relying party and the user of options."""
        options = json.loads(creation_options_json)
        handle = from_base64url(options["user"]["id"])
        return cls(options["rp"]["id"], handle, **facts)

    def register(self, options_json: str, **changes: Any) -> str:
        """Return the JSON of `credential.toJSON()` after `navigator.credentials.create()`."""
        challenge = from_base64url(json.loads(options_json)["challenge"])
        key = changes.get("cose_key") or cbor2.dumps(_cose_key(self.key), canonical=True)
        size = len(self.credential_id).to_bytes(2, "big")
        attested = self.aaguid + size + self.credential_id + key
        data = self._authenticator_data(HAS_CREDENTIAL, changes) + attested
        data += changes.get("extensions", b"")
        attestation = {"fmt": "none", "attStmt": {}, "authData": data} | changes.get(
            "attestation", {}
        )
        response = {
            "clientDataJSON": self._client_data("webauthn.create", challenge, changes),
            "attestationObject": base64url(cbor2.dumps(attestation)),
            "transports": changes.get("transports", ["internal", "hybrid"]),
        }
        return self._credential(response, changes)

    def sign(self, options_json: str, **changes: Any) -> str:
        """Return the JSON of `credential.toJSON()` after `navigator.credentials.get()`."""
        challenge = from_base64url(json.loads(options_json)["challenge"])
        data = self._authenticator_data(0, changes) + changes.get("extensions", b"")
        client_data = self._client_data("webauthn.get", challenge, changes)
        signed = data + hashlib.sha256(from_base64url(client_data)).digest()
        handle = changes.get("user_handle", self.user_handle)
        response = {
            "clientDataJSON": client_data,
            "authenticatorData": base64url(data),
            "signature": base64url(changes.get("signature") or self._signature(signed)),
            "userHandle": None if handle is None else base64url(handle),
        }
        return self._credential(response, changes)

    def _credential(self, response: dict[str, Any], changes: dict[str, Any]) -> str:
        credential_id = base64url(changes.get("credential_id", self.credential_id))
        content = {
            "id": credential_id,
            "rawId": credential_id,
            "type": "public-key",
            "authenticatorAttachment": "platform",
            "clientExtensionResults": {"credProps": {"rk": True}},
            "response": response,
        }
        return json.dumps(content | changes.get("credential", {}))

    def _client_data(self, kind: str, challenge: bytes, changes: dict[str, Any]) -> str:
        content = {
            "type": changes.get("type", kind),
            "challenge": base64url(changes.get("challenge", challenge)),
            "origin": changes.get("origin", self.origin),
            "crossOrigin": False,
        }
        return base64url(json.dumps(content | changes.get("client_data", {})).encode())

    def _authenticator_data(self, flags: int, changes: dict[str, Any]) -> bytes:
        self.sign_count += self.counts
        flags |= changes.get("present", True) and PRESENT
        flags |= changes.get("verified", self.verifies_user) and VERIFIED
        flags |= changes.get("is_backup_eligible", self.is_backup_eligible) and BACKUP_ELIGIBLE
        flags |= changes.get("is_backed_up", self.is_backed_up) and BACKED_UP
        flags |= "extensions" in changes and HAS_EXTENSIONS
        relying_party_id = changes.get("relying_party_id", self.relying_party_id)
        count: int = changes.get("sign_count", self.sign_count)
        digest = hashlib.sha256(relying_party_id.encode()).digest()
        return digest + bytes([flags]) + count.to_bytes(4, "big")

    def _signature(self, content: bytes) -> bytes:
        if isinstance(self.key, ec.EllipticCurvePrivateKey):
            return self.key.sign(content, ec.ECDSA(SHA256()))
        if isinstance(self.key, ed25519.Ed25519PrivateKey):
            return self.key.sign(content)
        return self.key.sign(content, padding.PKCS1v15(), SHA256())


def new_cose_key(algorithm: Algorithm, **size: Any) -> dict[int, Any]:
    """Return a new public key."""
    return _cose_key(_new_key(algorithm, **size))


def _new_key(
    algorithm: Algorithm, *, rsa_bits: int = 2048, curve: ec.EllipticCurve | None = None
) -> PrivateKey:
    match algorithm:
        case "ES256":
            return ec.generate_private_key(curve or ec.SECP256R1())
        case "EdDSA":
            return ed25519.Ed25519PrivateKey.generate()
        case _:
            return rsa.generate_private_key(65537, rsa_bits)


def _cose_key(key: PrivateKey) -> dict[int, Any]:
    """Return the public key as RFC 9053 writes it."""
    match key:
        case ec.EllipticCurvePrivateKey():
            point = key.public_key().public_numbers()
            size = (key.key_size + 7) // 8
            x, y = point.x.to_bytes(size, "big"), point.y.to_bytes(size, "big")
            return {1: 2, 3: -7, -1: 1, -2: x, -3: y}
        case ed25519.Ed25519PrivateKey():
            x = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
            return {1: 1, 3: -8, -1: 6, -2: x}
        case _:
            numbers = key.public_key().public_numbers()
            n = numbers.n.to_bytes((key.key_size + 7) // 8, "big")
            return {1: 3, 3: -257, -1: n, -2: numbers.e.to_bytes(3, "big")}
