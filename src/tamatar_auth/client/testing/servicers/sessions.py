"""The methods of SessionService."""

from collections.abc import Iterator
from queue import Empty
from typing import Any
from uuid import UUID

from tamatar.auth.v1 import session_service_pb2 as pb
from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar_auth.client.testing.errors import RefusedError
from tamatar_auth.client.testing.servicers.pages import Pages
from tamatar_auth.client.testing.servicers.sign_in import FakeSignInMethods
from tamatar_auth.client.testing.servicers.step_up import FakeStepUpMethods
from tamatar_auth.client.testing.servicers.users import get_user
from tamatar_auth.client.testing.store import FakeStore
from tamatar_auth.client.testing.store.authentication import check_requirements
from tamatar_auth.client.testing.store.sessions import SessionRecord

HEARTBEAT_INTERVAL = 5.0
"""Seconds without an end after which a stream sends a heartbeat."""


class FakeSessionServicer(FakeSignInMethods, FakeStepUpMethods):
    """The fake's servicer of SessionService."""

    def __init__(self, store: FakeStore, heartbeat_interval: float) -> None:
        super().__init__(store)
        self._heartbeat_interval = heartbeat_interval
        self._pages = Pages()

    def ValidateSession(self, request: pb.ValidateSessionRequest) -> pb.ValidateSessionResponse:
        session, record = self._store.sessions.validate(request.session_token)
        check_requirements(session, request, self._store.clock.now())
        return pb.ValidateSessionResponse(session=session, user=record.user)

    def BatchValidateSessions(
        self, request: pb.BatchValidateSessionsRequest
    ) -> pb.BatchValidateSessionsResponse:
        results = [self._validation(token, request) for token in request.session_tokens]
        return pb.BatchValidateSessionsResponse(results=results)

    def RefreshSession(self, request: pb.RefreshSessionRequest) -> pb.RefreshSessionResponse:
        refreshed, record = self._store.sessions.refresh(request.session_token)
        return pb.RefreshSessionResponse(
            session=refreshed.session, user=record.user, session_token=refreshed.tokens[-1]
        )

    def GetSession(self, request: pb.GetSessionRequest) -> pb.GetSessionResponse:
        session = self._store.sessions.get(str(UUID(request.session_id))).session
        if self._store.users.find_where(lambda user: user.user_id == session.user_id) is None:
            raise RefusedError(ErrorReason.SESSION_NOT_FOUND)
        return pb.GetSessionResponse(session=session)

    def ListSessions(self, request: pb.ListSessionsRequest) -> pb.ListSessionsResponse:
        user_id, sessions = str(UUID(request.user_id)), self._store.sessions
        query = (user_id, request.include_ended)
        found = (sessions.list_of_user if request.include_ended else sessions.list_live)(user_id)

        def key(record: SessionRecord) -> tuple[int, str]:
            return record.session.create_time.ToNanoseconds(), record.session.session_id

        page, token = self._pages.cut(found, request, query, key=key, descending=True)
        get_user(self._store, user_id)
        return pb.ListSessionsResponse(
            sessions=[record.session for record in page], next_page_token=token
        )

    def RevokeSession(self, request: pb.RevokeSessionRequest) -> pb.RevokeSessionResponse:
        if request.HasField("session_token"):
            record = self._store.sessions.get_by_token(request.session_token)
        else:
            record = self._store.sessions.get(str(UUID(request.session_id)))
        self._store.sessions.revoke(record)
        return pb.RevokeSessionResponse(session=record.session)

    def RevokeUserSessions(
        self, request: pb.RevokeUserSessionsRequest
    ) -> pb.RevokeUserSessionsResponse:
        kept_id = request.except_session_id and str(UUID(request.except_session_id))
        user = get_user(self._store, request.user_id).user
        ended = self._store.sessions.revoke_of_user(user.user_id, except_id=kept_id)
        return pb.RevokeUserSessionsResponse(revoked_session_count=ended)

    def WatchSessions(
        self, _request: pb.WatchSessionsRequest, context: Any
    ) -> Iterator[pb.WatchSessionsResponse]:
        watcher = self._store.ends.add_watcher()
        try:
            if not context.add_callback(lambda: watcher.put(ErrorReason.STREAM_INTERRUPTED)):
                return
            yield pb.WatchSessionsResponse()
            while True:
                try:
                    event = watcher.get(timeout=self._heartbeat_interval)
                except Empty:
                    yield pb.WatchSessionsResponse()
                    continue
                if not isinstance(event, pb.SessionEnd):
                    raise RefusedError(event)
                yield pb.WatchSessionsResponse(ends=[event])
        finally:
            self._store.ends.remove_watcher(watcher)

    def _validation(
        self, token: str, request: pb.BatchValidateSessionsRequest
    ) -> pb.SessionValidation:
        try:
            session, record = self._store.sessions.validate(token)
            check_requirements(session, request, self._store.clock.now())
        except RefusedError as refused:
            return pb.SessionValidation(refusal=refused.reason)
        return pb.SessionValidation(session=session, user=record.user)
