"""Second factors of users, without calls."""

from collections.abc import Sequence

from tamatar.auth.v1.factor_pb2 import Factor
from tamatar.auth.v1.factor_service_pb2 import (
    BeginPasskeyRegistrationRequest,
    FinishPasskeyRegistrationRequest,
)
from tamatar.auth.v1.user_pb2 import User
from tamatar_auth.client.testing.passkeys import FakePasskey
from tamatar_auth.client.testing.servicers import FakeFactorServicer
from tamatar_auth.client.testing.store import FakeStore


class FactorShortcuts:
    """Adds second factors to users, and makes codes of them."""

    _store: FakeStore

    def add_totp_factor(self, user: User, *, label: str = "") -> Factor:
        """Add an authenticator app to a user. `totp_code` returns its codes."""
        with self._store.lock:
            record = self._store.factors.add_totp(user.user_id, label)
            self._store.factors.confirm(record)
            return Factor.FromString(record.factor.SerializeToString())

    def totp_code(self, factor: Factor) -> str:
        """Return a code of an authenticator app that is right now and was not used.

        The clock of the service moves on by 30 seconds if all codes of this moment were used.
        """
        with self._store.lock:
            return self._store.factors.next_code(self._store.factors.get(factor.factor_id))

    def add_recovery_codes(self, user: User) -> Sequence[str]:
        """Give a user ten recovery codes, and return them."""
        with self._store.lock:
            return self._store.factors.add_codes(user.user_id)[1]

    def add_passkey(self, user: User, passkey: FakePasskey | None = None) -> FakePasskey:
        """Register a passkey for a user, by default a new one, and return it."""
        passkey = passkey or FakePasskey()
        servicer = FakeFactorServicer(self._store)
        with self._store.lock:
            request = BeginPasskeyRegistrationRequest(user_id=user.user_id)
            begun = servicer.BeginPasskeyRegistration(request)
            servicer.FinishPasskeyRegistration(
                FinishPasskeyRegistrationRequest(
                    registration_token=begun.registration_token,
                    credential_json=passkey.register(begun.creation_options_json),
                )
            )
        return passkey
