"""A passkey for tests, which only the fake service accepts: its key is no real one."""

import hmac
import json
import secrets
from dataclasses import dataclass, field
from typing import Any

from tamatar_auth.client.testing.store.challenges import base64url, from_base64url

ORIGIN = "http://localhost:8000"
"""The origin of the pages that the fake service accepts, as a real one does in development."""


@dataclass
class FakePasskey:
    """A passkey in the hand of a user, and the browser that asks for it.

    >>> passkey = FakePasskey()
    >>> begun = auth.factors.BeginPasskeyRegistration(request)
    >>> credential_json = passkey.register(begun.creation_options_json)
    >>> credential_json = passkey.sign(challenge.passkey_options_json)
    """

    verifies_user: bool = True
    """Whether the passkey asks for a PIN or a fingerprint."""
    is_backup_eligible: bool = False
    """Whether the passkey may be copied to other devices."""
    origin: str = ORIGIN
    """The origin of the page. The fake service accepts no other one."""
    credential_id: str = field(default_factory=lambda: base64url(secrets.token_bytes(32)))
    sign_count: int = 0
    user_handle: str = ""
    _key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def register(self, creation_options_json: str) -> str:
        """Return `credential.toJSON()` after `navigator.credentials.create()`.

        Raises `ValueError` if the options exclude this passkey, as a browser refuses it.
        """
        options = json.loads(creation_options_json)
        if self.credential_id in [each["id"] for each in options["excludeCredentials"]]:
            raise ValueError("the passkey is already registered")
        self.user_handle = options["user"]["id"]
        response = {
            "clientDataJSON": self._client_data("webauthn.create", options),
            "attestationObject": self._data(options["rp"]["id"], key=self._key.hex()),
            "transports": ["internal"],
        }
        return self._credential(response)

    def sign(self, request_options_json: str) -> str:
        """Return `credential.toJSON()` after `navigator.credentials.get()`.

        Raises `ValueError` if the options allow other passkeys only.
        """
        options = json.loads(request_options_json)
        allowed = [each["id"] for each in options["allowCredentials"]]
        if allowed and self.credential_id not in allowed:
            raise ValueError("the passkey is not allowed")
        client_data, data = self._client_data("webauthn.get", options), self._data(options["rpId"])
        response = {
            "clientDataJSON": client_data,
            "authenticatorData": data,
            "signature": signature(self._key, client_data, data),
            "userHandle": self.user_handle,
        }
        return self._credential(response)

    def _client_data(self, kind: str, options: Any) -> str:
        content = {"type": kind, "challenge": options["challenge"], "origin": self.origin}
        return base64url(json.dumps(content).encode())

    def _data(self, relying_party_id: str, **more: str) -> str:
        """Return what the authenticator says. A real one says it in bytes."""
        content = {
            "rpId": relying_party_id,
            "isVerified": self.verifies_user,
            "isBackupEligible": self.is_backup_eligible,
            "signCount": self.sign_count,
        }
        return base64url(json.dumps(content | more).encode())

    def _credential(self, response: dict[str, Any]) -> str:
        content = {
            "id": self.credential_id,
            "rawId": self.credential_id,
            "type": "public-key",
            "authenticatorAttachment": "platform",
            "clientExtensionResults": {},
            "response": response,
        }
        return json.dumps(content)


def signature(key: bytes, client_data: str, data: str) -> str:
    """Return the signature of a passkey."""
    return base64url(hmac.digest(key, f"{client_data}.{data}".encode(), "sha256"))


def opened(text: str) -> Any:
    """Return the content of a part of a credential, or raise `ValueError`."""
    return json.loads(from_base64url(text))
