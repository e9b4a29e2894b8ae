"""The methods of SessionService that prove again who a user is."""

import contextlib
from collections.abc import AsyncIterator

from tamatar.auth.v1 import session_service_pb2 as pb
from tamatar_auth.errors import ServerBusy
from tamatar_auth.errors.factors import InvalidProof
from tamatar_auth.errors.users import InvalidCredentials, TooManyAttempts
from tamatar_auth.security import audit
from tamatar_auth.security.assurance import PASSWORD, Methods
from tamatar_auth.security.attempt_keys import key_of_user_id
from tamatar_auth.security.audit import Event
from tamatar_auth.security.passkeys import PasskeyVerifier
from tamatar_auth.security.tokens import ChallengeToken, SessionToken
from tamatar_auth.servicers import Context
from tamatar_auth.servicers.challenges import count_answer, issue_challenge
from tamatar_auth.servicers.messages import session_message, user_message
from tamatar_auth.servicers.password_check import Identity, PasswordCheck
from tamatar_auth.servicers.proof_check import Answer, ProofCheck
from tamatar_auth.servicers.session_requirement import token_key
from tamatar_auth.storage.database import Database, Scope
from tamatar_auth.storage.repositories.challenges import ChallengePurpose
from tamatar_auth.storage.repositories.credentials import CredentialRepository
from tamatar_auth.storage.repositories.sessions import SessionRow
from tamatar_auth.storage.repositories.user_filters import Deleted

STEP_UP = ChallengePurpose.STEP_UP


class StepUpMethods:
    """Raises the level of sessions."""

    _database: Database
    _check: PasswordCheck
    _proofs: ProofCheck
    _passkeys: PasskeyVerifier

    async def BeginStepUp(
        self, request: pb.BeginStepUpRequest, context: Context
    ) -> pb.BeginStepUpResponse:
        async with self._database.transaction() as tx:
            found = await tx.authentications.get(token_key(request.session_token))
            session = found.valid.session
            challenge = await issue_challenge(
                tx, self._passkeys, STEP_UP, session.user_id, session_id=session.id
            )
        return pb.BeginStepUpResponse(challenge=challenge)

    async def CompleteStepUp(
        self, request: pb.CompleteStepUpRequest, context: Context
    ) -> pb.CompleteStepUpResponse:
        key = token_key(request.session_token)
        async with self._database.read() as db:
            session = (await db.authentications.get(key)).valid.session
        token = SessionToken.issue(session.user_id, session.expires_at)
        async with self._proven(request, session) as (tx, methods):
            proven = Methods.parse(session.authentication_methods) | methods
            valid = await tx.rotations.step_up(key, token.digest, proven.text)
        session, user = valid.session, valid.user
        ids = {"user_id": user.id, "session_id": session.id}
        audit.record(Event.SESSION_STEPPED_UP, **ids, authentication_methods=proven.text)
        return pb.CompleteStepUpResponse(
            session=session_message(session), user=user_message(user), session_token=token.text
        )

    @contextlib.asynccontextmanager
    async def _proven(
        self, request: pb.CompleteStepUpRequest, session: SessionRow
    ) -> AsyncIterator[tuple[Scope, Methods]]:
        """Open the transaction of a right proof, which uses its challenge. Yield its methods."""
        kind = request.WhichOneof("proof") or ""
        if kind == "password":
            async with self._proven_by_password(request, session) as tx:
                yield tx, PASSWORD
            return
        token = ChallengeToken(request.challenge_token)
        answer = Answer(token, kind, getattr(request, kind), session.id)
        proven = await self._proofs.proven(answer, [STEP_UP])
        async with self._database.transaction() as tx:
            # A user who was deleted meanwhile has no valid session, which is what the caller hears.
            await tx.users.lock(session.user_id, deleted=Deleted.INCLUDE)
            await proven.use(tx)
            yield tx, proven.proof.methods
        proven.record()

    @contextlib.asynccontextmanager
    async def _proven_by_password(
        self, request: pb.CompleteStepUpRequest, session: SessionRow
    ) -> AsyncIterator[Scope]:
        """Open the transaction of a right password.

        Raise `InvalidProof`, `TooManyAttempts` or `ServerBusy`. A wrong password counts as at a
        sign-in.
        """
        user_id, token = session.user_id, ChallengeToken(request.challenge_token)
        find = CredentialRepository.find_by_user_id
        identity = Identity(find, user_id, key_of_user_id(user_id))
        async with self._check.permit() as permit:
            await count_answer(self._database, token, STEP_UP, session)
            try:
                async with (
                    self._check.verified(permit, identity, request.password) as checked,
                    self._database.transaction() as tx,
                ):
                    await tx.credentials.lock(checked)
                    await tx.challenges.use(token.digest)
                    yield tx
            except InvalidCredentials as failure:
                raise InvalidProof(**failure.audit_details) from None
            except (TooManyAttempts, ServerBusy):
                async with self._database.statements() as db:
                    await db.challenges.uncount_answer(token.digest)
                raise
