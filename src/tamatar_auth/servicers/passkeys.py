"""The methods of FactorService that register passkeys."""

from uuid import UUID

from uuid_utils.compat import uuid7

from tamatar.auth.v1 import factor_service_pb2 as pb
from tamatar_auth.errors.factors import InvalidProof, PasskeyTaken
from tamatar_auth.security import audit
from tamatar_auth.security.audit import Event
from tamatar_auth.security.factor_keys import FactorKeys
from tamatar_auth.security.passkey_options import PasskeyUser
from tamatar_auth.security.passkeys import PasskeyVerifier, WrongCredential
from tamatar_auth.security.tokens import ChallengeToken
from tamatar_auth.servicers import Context
from tamatar_auth.servicers.challenges import as_option, count_answer
from tamatar_auth.servicers.messages import factor_message, timestamp
from tamatar_auth.servicers.session_requirement import require_step_up
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.repositories.challenges import ChallengePurpose, NewChallenge
from tamatar_auth.storage.repositories.factors import FactorKind, NewFactor
from tamatar_auth.storage.repositories.users import UserRow

REGISTRATION = ChallengePurpose.REGISTRATION


class PasskeyMethods:
    """Registers passkeys."""

    _database: Database
    _keys: FactorKeys
    _passkeys: PasskeyVerifier

    async def BeginPasskeyRegistration(
        self, request: pb.BeginPasskeyRegistrationRequest, context: Context
    ) -> pb.BeginPasskeyRegistrationResponse:
        user_id, token = UUID(request.user_id), ChallengeToken.issue()
        party, challenge = self._passkeys.relying_party, token.webauthn_challenge
        async with self._database.transaction() as tx:
            user = await tx.users.get(user_id)
            await require_step_up(tx, request.step_up, user_id)
            await tx.factors.require_room(user_id)
            registered = await tx.passkeys.of_user(user_id)
            expires = await tx.challenges.issue(
                NewChallenge(token_digest=token.digest, purpose=REGISTRATION, user_id=user_id)
            )
        options = party.registration_options(
            _shown(user),
            challenge=challenge,
            registered=[as_option(each.credential_id, each.transports) for each in registered],
        )
        return pb.BeginPasskeyRegistrationResponse(
            registration_token=token.text,
            creation_options_json=options,
            expire_time=timestamp(expires),
        )

    async def FinishPasskeyRegistration(
        self, request: pb.FinishPasskeyRegistrationRequest, context: Context
    ) -> pb.FinishPasskeyRegistrationResponse:
        token = ChallengeToken(request.registration_token)
        user_id = await count_answer(self._database, token, REGISTRATION)
        new = self._verified(request, token, user_id)
        async with self._database.transaction() as tx:
            await tx.users.lock(user_id)
            await tx.challenges.use(token.digest)
            await tx.factors.require_room(user_id)
            factor = await tx.factors.add(new)
            # After the same statements as for a passkey that is registered.
            if self._keys.is_made_up(new.credential_id or b""):
                raise PasskeyTaken
        audit.record(Event.PASSKEY_REGISTERED, user_id=user_id, factor_id=str(factor.id))
        return pb.FinishPasskeyRegistrationResponse(factor=factor_message(factor))

    def _verified(
        self, request: pb.FinishPasskeyRegistrationRequest, token: ChallengeToken, user_id: UUID
    ) -> NewFactor:
        """Return the passkey that a browser has made, or raise `InvalidProof`."""
        try:
            made = self._passkeys.verify_registration(
                request.credential_json, challenge=token.webauthn_challenge
            )
        except WrongCredential as wrong:
            raise InvalidProof(wrong.cause, user_id) from None
        return NewFactor(
            id=uuid7(),
            user_id=user_id,
            kind=FactorKind.PASSKEY,
            label=request.label,
            credential_id=made.credential.value,
            public_key=made.public_key,
            sign_count=made.sign_count,
            aaguid=made.aaguid,
            is_backup_eligible=made.is_backup_eligible,
            is_backed_up=made.is_backed_up,
            transports=" ".join(made.credential.transports),
        )


def _shown(user: UserRow) -> PasskeyUser:
    return PasskeyUser(user.id, user.email, user.full_name or user.email)
