"""The methods of the fake service."""

from collections import Counter
from collections.abc import Callable, Iterator
from queue import Empty
from typing import Any

import grpc
from google.protobuf import message_factory

from tamatar.auth.v1 import session_service_pb2 as session_pb
from tamatar.auth.v1 import user_service_pb2 as user_pb
from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar.auth.v1.user_pb2 import User
from tamatar_auth.client.testing.errors import RefusedError, parse_session_token, parse_uuid
from tamatar_auth.client.testing.state import FakeState

HEARTBEAT_INTERVAL = 5.0
"""Seconds without an end after which a stream sends a heartbeat."""

_MAX_BATCH_SIZE = 1000


class FakeUserServicer:
    """Reads users."""

    def __init__(self, state: FakeState) -> None:
        self._state = state

    def GetUser(self, request: user_pb.GetUserRequest, _context: Any) -> user_pb.GetUserResponse:
        return user_pb.GetUserResponse(user=self._state.get_user_where(_user_matcher(request)))

    def BatchGetUsers(
        self, request: user_pb.BatchGetUsersRequest, _context: Any
    ) -> user_pb.BatchGetUsersResponse:
        if not 1 <= len(request.user_ids) <= _MAX_BATCH_SIZE:
            raise RefusedError(ErrorReason.INVALID_FIELDS, "user_ids")
        user_ids = (parse_uuid(f"user_ids[{n}]", each) for n, each in enumerate(request.user_ids))
        response = user_pb.BatchGetUsersResponse()
        for user_id in dict.fromkeys(user_ids):
            try:
                response.users.append(self._state.get_live_user(user_id))
            except RefusedError:
                response.missing_user_ids.append(user_id)
        return response


class FakeSessionServicer:
    """Validates, revokes and watches sessions."""

    def __init__(self, state: FakeState, heartbeat_interval: float) -> None:
        self._state = state
        self._heartbeat_interval = heartbeat_interval

    def ValidateSession(
        self, request: session_pb.ValidateSessionRequest, _context: Any
    ) -> session_pb.ValidateSessionResponse:
        session, user = self._state.get_valid_session(
            parse_session_token("session_token", request.session_token)
        )
        return session_pb.ValidateSessionResponse(session=session, user=user)

    def BatchValidateSessions(
        self, request: session_pb.BatchValidateSessionsRequest, _context: Any
    ) -> session_pb.BatchValidateSessionsResponse:
        if not 1 <= len(request.session_tokens) <= _MAX_BATCH_SIZE:
            raise RefusedError(ErrorReason.INVALID_FIELDS, "session_tokens")
        tokens = [
            parse_session_token(f"session_tokens[{n}]", each)
            for n, each in enumerate(request.session_tokens)
        ]
        return session_pb.BatchValidateSessionsResponse(results=map(self._result, tokens))

    def GetSession(
        self, request: session_pb.GetSessionRequest, _context: Any
    ) -> session_pb.GetSessionResponse:
        session_id = parse_uuid("session_id", request.session_id)
        return session_pb.GetSessionResponse(session=self._state.session(session_id))

    def RevokeSession(
        self, request: session_pb.RevokeSessionRequest, _context: Any
    ) -> session_pb.RevokeSessionResponse:
        match request.WhichOneof("session"):
            case "session_id":
                session = self._state.session(parse_uuid("session_id", request.session_id))
            case "session_token":
                token = parse_session_token("session_token", request.session_token)
                session = self._state.get_session_by_token(token)
            case _:
                raise RefusedError(ErrorReason.INVALID_FIELDS, "session")
        self._state.revoke_sessions(session)
        return session_pb.RevokeSessionResponse(session=session)

    def RevokeUserSessions(
        self, request: session_pb.RevokeUserSessionsRequest, _context: Any
    ) -> session_pb.RevokeUserSessionsResponse:
        user = self._state.get_live_user(parse_uuid("user_id", request.user_id))
        kept_session_id = request.except_session_id
        if kept_session_id:
            kept_session_id = parse_uuid("except_session_id", kept_session_id)
        live_sessions = self._state.list_live_sessions(user.user_id)
        ended_sessions = [each for each in live_sessions if each.session_id != kept_session_id]
        return session_pb.RevokeUserSessionsResponse(
            revoked_session_count=self._state.revoke_sessions(*ended_sessions)
        )

    def WatchSessions(
        self, _request: session_pb.WatchSessionsRequest, context: Any
    ) -> Iterator[session_pb.WatchSessionsResponse]:
        watcher = self._state.add_watcher()
        try:
            if not context.add_callback(lambda: watcher.put(ErrorReason.STREAM_INTERRUPTED)):
                return
            yield session_pb.WatchSessionsResponse()
            while True:
                try:
                    event = watcher.get(timeout=self._heartbeat_interval)
                except Empty:
                    yield session_pb.WatchSessionsResponse()
                    continue
                if not isinstance(event, session_pb.SessionEnd):
                    raise RefusedError(event)
                yield session_pb.WatchSessionsResponse(ends=[event])
        finally:
            self._state.remove_watcher(watcher)

    def _result(self, token: str) -> session_pb.SessionValidation:
        try:
            session, user = self._state.get_valid_session(token)
        except RefusedError as refused:
            return session_pb.SessionValidation(refusal=refused.reason)
        return session_pb.SessionValidation(session=session, user=user)


def handlers(
    descriptor: Any, servicer: Any, calls: "Counter[str]", check_available: Callable[[], None]
) -> grpc.GenericRpcHandler:
    """Return the handlers of a service. Methods without a handler fail with UNIMPLEMENTED."""
    return grpc.method_handlers_generic_handler(
        descriptor.full_name,
        {
            method.name: _handler(method, getattr(servicer, method.name), calls, check_available)
            for method in descriptor.methods
            if hasattr(servicer, method.name)
        },
    )


def _handler(
    method: Any, behaviour: Any, calls: "Counter[str]", check_available: Callable[[], None]
) -> Any:
    def begin() -> None:
        calls[method.name] += 1
        check_available()

    def unary(request: Any, context: Any) -> Any:
        try:
            begin()
            return behaviour(request, context)
        except RefusedError as refused:
            refused.abort(context)

    def stream(request: Any, context: Any) -> Iterator[Any]:
        try:
            begin()
            yield from behaviour(request, context)
        except RefusedError as refused:
            refused.abort(context)

    request_type = message_factory.GetMessageClass(method.input_type)
    response_type = message_factory.GetMessageClass(method.output_type)
    codec = (request_type.FromString, response_type.SerializeToString)
    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(stream, *codec)
    return grpc.unary_unary_rpc_method_handler(unary, *codec)


def _user_matcher(request: user_pb.GetUserRequest) -> Callable[[User], bool]:
    match request.WhichOneof("identifier"):
        case "user_id":
            user_id = parse_uuid("user_id", request.user_id)
            return lambda user: user.user_id == user_id
        case "email" if request.email:
            email = request.email.lower()
            return lambda user: user.email == email
        case "username" if request.username:
            username = request.username.lower()
            return lambda user: user.username == username
        case None:
            raise RefusedError(ErrorReason.INVALID_FIELDS, "identifier")
        case name:
            raise RefusedError(ErrorReason.INVALID_FIELDS, name)
