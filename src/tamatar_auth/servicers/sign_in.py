"""The methods of SessionService that sign users in."""

from typing import Any

from tamatar.auth.v1 import session_service_pb2 as pb
from tamatar_auth.config.lifetimes import SessionSettings
from tamatar_auth.errors.users import EmailNotVerified
from tamatar_auth.security import audit
from tamatar_auth.security.assurance import PASSWORD
from tamatar_auth.security.attempt_keys import key_of_email, key_of_username
from tamatar_auth.security.audit import Event
from tamatar_auth.security.identifiers import normalize_email, normalize_username
from tamatar_auth.security.passkeys import PasskeyVerifier
from tamatar_auth.security.passwords.hasher import PasswordPermit
from tamatar_auth.security.tokens import ChallengeToken
from tamatar_auth.servicers import Context
from tamatar_auth.servicers.challenges import issue_challenge
from tamatar_auth.servicers.messages import session_message, user_message
from tamatar_auth.servicers.passkey_sign_in import PasskeySignInMethods
from tamatar_auth.servicers.password_check import Identity, PasswordCheck
from tamatar_auth.servicers.proof_check import PASSKEY_PURPOSES, Answer, ProofCheck
from tamatar_auth.servicers.session_start import StartedSession, start_session
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.repositories.challenges import ChallengePurpose
from tamatar_auth.storage.repositories.credentials import CredentialRepository, Credentials
from tamatar_auth.storage.repositories.users import UserRow

SIGN_IN = ChallengePurpose.SIGN_IN


class SignInMethods(PasskeySignInMethods):
    """Signs users in."""

    _database: Database
    _limits: SessionSettings
    _check: PasswordCheck
    _proofs: ProofCheck
    _passkeys: PasskeyVerifier

    async def CreateSession(
        self, request: pb.CreateSessionRequest, context: Context
    ) -> pb.CreateSessionResponse:
        async with (  # the permit first: a server at its limit parses no address
            self._check.permit() as permit,
            self._check.verified(permit, _identity(request), request.password) as checked,
        ):
            new_hash = await _hash_if_outdated(request.password, checked, permit)
            async with self._database.transaction() as tx:
                signed_in = await tx.credentials.record_sign_in(checked, new_hash=new_hash)
                user, is_challenged = signed_in
                if user.email_verified and is_challenged:
                    challenge = await issue_challenge(tx, self._passkeys, SIGN_IN, user.id)
                elif user.email_verified:
                    started = await start_session(tx, request.client, user, PASSWORD, self._limits)
        if not user.email_verified:  # raised after the commit, which keeps the new hash
            raise EmailNotVerified(user.id)
        if is_challenged:
            audit.record(Event.SIGN_IN_CHALLENGED, user_id=user.id)
            return pb.CreateSessionResponse(challenge=challenge)
        started.record()
        return pb.CreateSessionResponse(**_messages(started, user))

    async def CompleteSignIn(
        self, request: pb.CompleteSignInRequest, context: Context
    ) -> pb.CompleteSignInResponse:
        proven = await self._proofs.proven(_answer(request), [SIGN_IN, *PASSKEY_PURPOSES])
        methods = proven.proof.methods
        if proven.purpose == SIGN_IN:
            methods = PASSWORD | methods
        async with self._database.transaction() as tx:
            user = await tx.credentials.record_proven_sign_in(proven.user_id)
            await proven.use(tx)
            if not user.email_verified:
                raise EmailNotVerified(user.id)
            started = await start_session(tx, request.client, user, methods, self._limits)
        proven.record()
        started.record()
        return pb.CompleteSignInResponse(**_messages(started, user))


def _messages(started: StartedSession, user: UserRow) -> dict[str, Any]:
    """Return the fields of a response with a new session."""
    return {
        "session": session_message(started.session),
        "user": user_message(user),
        "session_token": started.token.text,
    }


def _answer(request: pb.CompleteSignInRequest) -> Answer:
    kind = request.WhichOneof("proof") or ""
    return Answer(ChallengeToken(request.challenge_token), kind, getattr(request, kind))


async def _hash_if_outdated(
    password: str, credentials: Credentials, permit: PasswordPermit
) -> str | None:
    """Hash a password again if its hash has another scheme, key or cost than new hashes."""
    if permit.is_outdated(credentials.password_hash):
        return await permit.hash(password)
    return None


def _identity(request: pb.CreateSessionRequest) -> Identity:
    if request.HasField("email"):
        email = normalize_email(request.email)
        return Identity(CredentialRepository.find_by_email, email, key_of_email(email))
    name = normalize_username(request.username)
    return Identity(CredentialRepository.find_by_username, name, key_of_username(name))
