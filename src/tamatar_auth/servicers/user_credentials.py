"""The methods of UserService for passwords and one-time tokens."""

from uuid import UUID

from tamatar.auth.v1 import user_service_pb2 as pb
from tamatar_auth.config.lifetimes import UserTokenSettings
from tamatar_auth.security import audit
from tamatar_auth.security.attempt_keys import (
    key_of_account,
    key_of_email,
    key_of_proof,
    key_of_reset,
    key_of_user_id,
)
from tamatar_auth.security.audit import Event
from tamatar_auth.security.identifiers import normalize_email
from tamatar_auth.security.passwords.hasher import PasswordHasher
from tamatar_auth.security.passwords.policy import PasswordPolicy
from tamatar_auth.security.tokens import UserToken, token_digest
from tamatar_auth.servicers import Context
from tamatar_auth.servicers.messages import timestamp, user_message
from tamatar_auth.servicers.password_check import Identity, PasswordCheck
from tamatar_auth.servicers.request_parsing import optional_id
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.repositories.credentials import CredentialRepository
from tamatar_auth.storage.repositories.user_tokens import EmailChange, TokenOwner, TokenPurpose

VERIFICATION, RESET = TokenPurpose.EMAIL_VERIFICATION, TokenPurpose.PASSWORD_RESET
CHANGE = TokenPurpose.EMAIL_CHANGE


class CredentialMethods:
    """Changes passwords, and issues and consumes one-time tokens."""

    def __init__(
        self,
        database: Database,
        passwords: PasswordHasher,
        policy: PasswordPolicy,
        lifetimes: UserTokenSettings,
    ) -> None:
        self._database = database
        self._passwords = passwords
        self._policy = policy
        self._lifetimes = lifetimes
        self._check = PasswordCheck(database, passwords)

    async def ChangePassword(
        self, request: pb.ChangePasswordRequest, context: Context
    ) -> pb.ChangePasswordResponse:
        user_id, kept_id = UUID(request.user_id), optional_id(request.keep_session_id)
        find = CredentialRepository.find_by_user_id
        identity = Identity(find, user_id, key_of_user_id(user_id))
        async with (
            self._check.permit() as permit,
            self._check.verified(permit, identity, request.current_password) as checked,
        ):
            self._policy.check(request.new_password, names=checked.names, field="new_password")
            new_hash = await permit.hash(request.new_password)
            async with self._database.transaction() as tx:
                user = await tx.credentials.replace(checked, new_hash)
                await tx.user_tokens.revoke(user_id)
                ended = await tx.sessions.revoke_of_user(user_id, except_id=kept_id)
                await tx.challenges.delete_of_user(user_id)
        audit.record(Event.PASSWORD_CHANGED, user_id=user_id, revoked_sessions=ended)
        return pb.ChangePasswordResponse(user=user_message(user), revoked_session_count=ended)

    async def CreateEmailVerification(
        self, request: pb.CreateEmailVerificationRequest, context: Context
    ) -> pb.CreateEmailVerificationResponse:
        token, lifetime = UserToken.issue(), self._lifetimes.email_verification_lifetime
        async with self._database.transaction() as tx:
            user = await tx.users.get(UUID(request.user_id))
            owner = TokenOwner(user.id, user.email)
            expires = await tx.user_tokens.issue(VERIFICATION, owner, token.digest, lifetime)
        audit.record(Event.EMAIL_VERIFICATION_CREATED, user_id=user.id)
        return pb.CreateEmailVerificationResponse(
            token=token.text, expire_time=timestamp(expires), email=user.email
        )

    async def VerifyEmail(
        self, request: pb.VerifyEmailRequest, context: Context
    ) -> pb.VerifyEmailResponse:
        digest = token_digest(request.token)
        async with self._database.transaction() as tx:
            # The user first, as everywhere: one order of locks keeps transactions from deadlocks.
            # One of several calls with the token consumes it; the others are rolled back.
            user = await tx.credentials.verify_email(await tx.user_tokens.get(VERIFICATION, digest))
            await tx.user_tokens.consume(VERIFICATION, digest)
        audit.record(Event.EMAIL_VERIFIED, user_id=user.id)
        return pb.VerifyEmailResponse(user=user_message(user))

    async def CreateEmailChange(
        self, request: pb.CreateEmailChangeRequest, context: Context
    ) -> pb.CreateEmailChangeResponse:
        email, token = normalize_email(request.email), UserToken.issue()
        lifetime = self._lifetimes.email_verification_lifetime
        async with self._database.transaction() as tx:
            user = await tx.users.get(UUID(request.user_id))
            change = EmailChange(TokenOwner(user.id, user.email), email)
            # No lookup of the new address, so that nothing shows whether another user has it.
            expires = await tx.user_tokens.issue_change(change, token.digest, lifetime)
        audit.record(Event.EMAIL_CHANGE_CREATED, user_id=user.id)
        return pb.CreateEmailChangeResponse(
            token=token.text, expire_time=timestamp(expires), email=change.new_email
        )

    async def ConfirmEmailChange(
        self, request: pb.ConfirmEmailChangeRequest, context: Context
    ) -> pb.ConfirmEmailChangeResponse:
        digest = token_digest(request.token)
        async with self._database.transaction() as tx:
            change = await tx.user_tokens.get_change(digest)
            user = await tx.credentials.change_email(change)
            await tx.user_tokens.consume(CHANGE, digest)
            await tx.user_tokens.revoke(user.id)
            await tx.challenges.delete_of_user(user.id)
        audit.record(Event.EMAIL_CHANGED, user_id=user.id)
        return pb.ConfirmEmailChangeResponse(
            user=user_message(user), previous_email=change.owner.email
        )

    async def CreatePasswordReset(
        self, request: pb.CreatePasswordResetRequest, context: Context
    ) -> pb.CreatePasswordResetResponse:
        email, token = normalize_email(request.email), UserToken.issue()
        lifetime = self._lifetimes.password_reset_lifetime
        # One statement and one commit, with and without a user.
        async with self._database.statements() as db:
            user_id, expires = await db.user_tokens.issue_reset(
                email, token.digest, lifetime, stand_in=key_of_reset(email)
            )
        audit.record(Event.PASSWORD_RESET_CREATED, user_id=user_id)
        return pb.CreatePasswordResetResponse(
            token=token.text if user_id else "", expire_time=timestamp(expires), email=email
        )

    async def ResetPassword(
        self, request: pb.ResetPasswordRequest, context: Context
    ) -> pb.ResetPasswordResponse:
        digest = token_digest(request.token)
        async with self._passwords.permit() as permit:
            async with self._database.snapshot() as db:
                owner = await db.user_tokens.get(RESET, digest)
                found = await db.credentials.find_by_user_id(owner.user_id)
            self._policy.check(request.new_password, names=found.names, field="new_password")
            new_hash = await permit.hash(request.new_password)
        async with self._database.transaction() as tx:
            user = await tx.credentials.reset(owner, new_hash)
            await tx.user_tokens.consume(RESET, digest)
            ended = await tx.sessions.revoke_of_user(user.id)
            await tx.user_tokens.revoke(user.id)
            await tx.challenges.delete_of_user(user.id)
            # Not the username's: a wait that ends with that of an address would link the two.
            counters = (key_of_account(user.id), key_of_email(owner.email), key_of_proof(user.id))
            await tx.attempts.clear(*counters)
        audit.record(Event.PASSWORD_RESET, user_id=user.id, revoked_sessions=ended)
        return pb.ResetPasswordResponse(user=user_message(user), revoked_session_count=ended)
