"""The method of SessionService that begins a sign-in with a passkey."""

from collections.abc import Sequence

from tamatar.auth.v1 import session_service_pb2 as pb
from tamatar.auth.v1.factor_pb2 import FactorKind
from tamatar_auth.security.factor_keys import FactorKeys
from tamatar_auth.security.identifiers import normalize_email
from tamatar_auth.security.passkey_options import CredentialId
from tamatar_auth.security.passkeys import PasskeyVerifier
from tamatar_auth.security.tokens import ChallengeToken
from tamatar_auth.servicers import Context
from tamatar_auth.servicers.messages import timestamp
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.repositories.challenges import ChallengePurpose, NewChallenge
from tamatar_auth.storage.repositories.passkeys import PasskeyRow


class PasskeySignInMethods:
    """Begins to sign users in without a password."""

    _database: Database
    _keys: FactorKeys
    _passkeys: PasskeyVerifier

    async def BeginPasskeySignIn(
        self, request: pb.BeginPasskeySignInRequest, context: Context
    ) -> pb.BeginPasskeySignInResponse:
        email = normalize_email(request.email) if request.email else ""
        party, token = self._passkeys.relying_party, ChallengeToken.issue()
        purpose = ChallengePurpose.PASSKEY_SIGN_IN
        known: Sequence[PasskeyRow] = ()
        async with self._database.statements() as db:
            if email:
                purpose = ChallengePurpose.NAMED_PASSKEY_SIGN_IN
                known = await db.passkeys.of_email(email)
            user_id = known[0].user_id if known else None
            expires = await db.challenges.issue(
                NewChallenge(token_digest=token.digest, purpose=purpose, user_id=user_id)
            )
        allowed = self._allowed(email, known) if email else []
        options = party.assertion_options(
            challenge=token.webauthn_challenge, allowed=allowed, must_verify_user=True
        )
        return pb.BeginPasskeySignInResponse(
            challenge=pb.Challenge(
                challenge_token=token.text,
                kinds=[FactorKind.FACTOR_KIND_PASSKEY],
                passkey_options_json=options,
                expire_time=timestamp(expires),
            )
        )

    def _allowed(self, email: str, known: Sequence[PasskeyRow]) -> Sequence[CredentialId]:
        """Return the passkeys of an address, with made-up ones in place of those that it lacks.

        They are in an order that reveals nothing, and without the transports, by which a security
        key would show that it is real.
        """
        made_up = self._keys.made_up_credential_ids(email)[len(known) :]
        found = [row.credential_id for row in known]
        return [CredentialId(each) for each in sorted([*found, *made_up])]
