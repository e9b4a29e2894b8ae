"""SessionService. The comments in the proto are the documentation of its methods."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

from grpc.aio import ServicerContext
from uuid_utils.compat import uuid7

from tamatar.auth.v1 import session_service_pb2 as pb
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceServicer
from tamatar_auth.messages import session_message, user_message
from tamatar_auth.pagination import PageTokens, Query, page_size
from tamatar_auth.security.emails import normal_email, normal_username
from tamatar_auth.security.passwords import Passwords
from tamatar_auth.security.tokens import SessionToken, token_digest
from tamatar_auth.servicers.masks import optional
from tamatar_auth.servicers.parsing import optional_id
from tamatar_auth.storage.database import Database, Scope
from tamatar_auth.storage.paging import After
from tamatar_auth.storage.sessions import NewSession
from tamatar_auth.storage.users import Credentials

Context = ServicerContext[Any, Any]


class SessionServicer(SessionServiceServicer):
    """Answers SessionService."""

    def __init__(
        self,
        database: Database,
        passwords: Passwords,
        page_tokens: PageTokens,
        lifetime: timedelta,
    ) -> None:
        self._database = database
        self._passwords = passwords
        self._page_tokens = page_tokens
        self._lifetime = lifetime

    async def CreateSession(
        self, request: pb.CreateSessionRequest, context: Context
    ) -> pb.CreateSessionResponse:
        find = _finder(request)
        async with self._database.read() as db:
            credentials = await find(db)
        # No connection is held while bcrypt burns its quarter of a second.
        await self._passwords.verify(request.password, credentials.password_hash)
        token = SessionToken.issue()
        async with self._database.transaction() as tx:
            user = await tx.users.record_sign_in(credentials)
            new = NewSession(
                id=uuid7(),
                user_id=user.id,
                token_digest=token.digest,
                user_agent=optional(request.client.user_agent),
                ip_address=optional(request.client.ip_address),
            )
            session = await tx.sessions.add(new, self._lifetime)
        return pb.CreateSessionResponse(
            session=session_message(session), user=user_message(user), session_token=token.text
        )

    async def ValidateSession(
        self, request: pb.ValidateSessionRequest, context: Context
    ) -> pb.ValidateSessionResponse:
        async with self._database.read() as db:
            valid = await db.sessions.validate(token_digest(request.session_token))
        return pb.ValidateSessionResponse(
            session=session_message(valid.session), user=user_message(valid.user)
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
        query = Query("ListSessions", "", bound)
        after = self._page_tokens.read(query, request.page_token)
        async with self._database.snapshot() as db:
            await db.users.get(user_id)
            rows = await db.sessions.page(
                user_id, include_ended=request.include_ended, size=size + 1, after=after
            )
        answer = pb.ListSessionsResponse(sessions=map(session_message, rows[:size]))
        if len(rows) > size:
            last = rows[size - 1]
            answer.next_page_token = self._page_tokens.issue(query, After(last.created_at, last.id))
        return answer

    async def RevokeSession(
        self, request: pb.RevokeSessionRequest, context: Context
    ) -> pb.RevokeSessionResponse:
        async with self._database.transaction() as tx:
            if request.HasField("session_token"):
                session = await tx.sessions.revoke_by_token(token_digest(request.session_token))
            else:
                session = await tx.sessions.revoke(UUID(request.session_id))
        return pb.RevokeSessionResponse(session=session_message(session))

    async def RevokeUserSessions(
        self, request: pb.RevokeUserSessionsRequest, context: Context
    ) -> pb.RevokeUserSessionsResponse:
        user_id, kept = UUID(request.user_id), optional_id(request.except_session_id)
        async with self._database.transaction() as tx:
            await tx.users.get(user_id)
            ended = await tx.sessions.revoke_of_user(user_id, but=kept)
        return pb.RevokeUserSessionsResponse(revoked_session_count=ended)


def _finder(request: pb.CreateSessionRequest) -> Callable[[Scope], Awaitable[Credentials]]:
    if request.HasField("email"):
        email = normal_email(request.email)
        return lambda db: db.users.credentials(email=email)
    name = normal_username(request.username)
    return lambda db: db.users.credentials(username=name)
