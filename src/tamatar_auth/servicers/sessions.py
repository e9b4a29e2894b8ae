"""SessionService. The comments of the proto document its methods."""

import secrets
from collections.abc import AsyncIterator
from uuid import UUID

from tamatar.auth.v1 import session_service_pb2 as pb
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceServicer
from tamatar_auth.config.lifetimes import SessionSettings
from tamatar_auth.errors.sessions import SessionReused
from tamatar_auth.security import audit
from tamatar_auth.security.audit import Event
from tamatar_auth.security.factor_keys import FactorKeys
from tamatar_auth.security.passkeys import PasskeyVerifier
from tamatar_auth.security.passwords.hasher import PasswordHasher
from tamatar_auth.security.tokens import TOKEN_BYTES, SessionToken
from tamatar_auth.servicers import Context
from tamatar_auth.servicers.messages import (
    ends_message,
    session_message,
    user_message,
    validated_message,
    validations_message,
)
from tamatar_auth.servicers.page_tokens import PageQuery, PageTokens, page_size
from tamatar_auth.servicers.password_check import PasswordCheck
from tamatar_auth.servicers.proof_check import ProofCheck
from tamatar_auth.servicers.request_parsing import optional_id
from tamatar_auth.servicers.session_requirement import (
    require_all_validated,
    require_validated,
    token_key,
)
from tamatar_auth.servicers.sign_in import SignInMethods
from tamatar_auth.servicers.step_up import StepUpMethods
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.repositories import KeysetCursor
from tamatar_auth.storage.repositories.session_rotation import NewToken
from tamatar_auth.storage.session_events.feed import SessionEndFeed
from tamatar_auth.storage.session_validation.validator import SessionValidator

KEEPALIVE_INTERVAL = 5.0
"""Seconds after which a stream without ended sessions sends an empty message."""


class SessionServicer(SignInMethods, StepUpMethods, SessionServiceServicer):
    """The servicer of SessionService."""

    def __init__(  # noqa: PLR0913, PLR0917 - eight parts of the server
        self,
        database: Database,
        passwords: PasswordHasher,
        page_tokens: PageTokens,
        limits: SessionSettings,
        validator: SessionValidator,
        session_feed: SessionEndFeed,
        keys: FactorKeys,
        passkeys: PasskeyVerifier,
    ) -> None:
        self._keys = keys
        self._passkeys = passkeys
        self._database = database
        self._page_tokens = page_tokens
        self._limits = limits
        self._validator = validator
        self._session_feed = session_feed
        self._check = PasswordCheck(database, passwords)
        self._proofs = ProofCheck(database, keys, passkeys)

    async def ValidateSession(
        self, request: pb.ValidateSessionRequest, context: Context
    ) -> pb.ValidateSessionResponse:
        row = await self._validator.validate(token_key(request.session_token))
        return validated_message(require_validated(request, row))

    async def BatchValidateSessions(
        self, request: pb.BatchValidateSessionsRequest, context: Context
    ) -> pb.BatchValidateSessionsResponse:
        keys = [*map(token_key, request.session_tokens)]
        results = await self._validator.validate_all(keys)
        return validations_message(require_all_validated(request, results))

    async def RefreshSession(
        self, request: pb.RefreshSessionRequest, context: Context
    ) -> pb.RefreshSessionResponse:
        token, nonce = SessionToken(request.session_token), secrets.token_bytes(TOKEN_BYTES)
        key, successor = token_key(token.text), token.successor(nonce)
        new = NewToken(successor.digest, nonce)
        # Each statement commits by itself, so that no refresh waits for another.
        async with self._database.statements() as db:
            valid = await db.rotations.rotate(key, new)
            if valid is None:
                rotated = await db.rotations.find_rotated(key)
                valid = rotated.valid
                successor = token.stored_successor(rotated.nonce or b"", rotated.digest)
                if not rotated.is_in_grace:
                    await db.rotations.revoke_reused(valid.session)
                    raise SessionReused(valid.user.id, valid.session.id)
        session, user = valid.session, valid.user
        audit.record(Event.SESSION_REFRESHED, user_id=user.id, session_id=session.id)
        return pb.RefreshSessionResponse(
            session=session_message(session), user=user_message(user), session_token=successor.text
        )

    async def GetSession(
        self, request: pb.GetSessionRequest, context: Context
    ) -> pb.GetSessionResponse:
        async with self._database.read() as db:
            session = await db.sessions.get(UUID(request.session_id))
        return pb.GetSessionResponse(session=session_message(session))

    async def ListSessions(
        self, request: pb.ListSessionsRequest, context: Context
    ) -> pb.ListSessionsResponse:
        user_id, size = UUID(request.user_id), page_size(request.page_size)
        bound = pb.ListSessionsRequest(user_id=str(user_id), include_ended=request.include_ended)
        query = PageQuery("ListSessions", "", bound)
        after = self._page_tokens.read(query, request.page_token)
        async with self._database.snapshot() as db:
            await db.users.get(user_id)
            rows = await db.sessions.page(
                user_id, include_ended=request.include_ended, size=size + 1, after=after
            )
        answer = pb.ListSessionsResponse(sessions=map(session_message, rows[:size]))
        if len(rows) > size:
            last = rows[size - 1]
            answer.next_page_token = self._page_tokens.issue(
                query, KeysetCursor(last.created_at, last.id)
            )
        return answer

    async def RevokeSession(
        self, request: pb.RevokeSessionRequest, context: Context
    ) -> pb.RevokeSessionResponse:
        # One statement, so a transaction of its own: it needs no BEGIN and no COMMIT.
        async with self._database.statements() as db:
            if request.HasField("session_token"):
                session = await db.sessions.revoke_by_token(token_key(request.session_token))
            else:
                session = await db.sessions.revoke(UUID(request.session_id))
        audit.record(Event.SESSION_REVOKED, user_id=session.user_id, session_id=session.id)
        return pb.RevokeSessionResponse(session=session_message(session))

    async def RevokeUserSessions(
        self, request: pb.RevokeUserSessionsRequest, context: Context
    ) -> pb.RevokeUserSessionsResponse:
        user_id, kept_session_id = UUID(request.user_id), optional_id(request.except_session_id)
        async with self._database.transaction() as tx:
            await tx.users.get(user_id)
            ended = await tx.sessions.revoke_of_user(user_id, except_id=kept_session_id)
        audit.record(Event.SESSIONS_REVOKED, user_id=user_id, revoked_sessions=ended)
        return pb.RevokeUserSessionsResponse(revoked_session_count=ended)

    async def WatchSessions(
        self, request: pb.WatchSessionsRequest, context: Context
    ) -> AsyncIterator[pb.WatchSessionsResponse]:
        async with self._session_feed.subscribe() as subscriber:
            yield ends_message()
            while True:
                yield await subscriber.next_message(KEEPALIVE_INTERVAL) or ends_message()
