"""The methods that the fake service answers."""

from collections import Counter
from collections.abc import Callable, Iterator
from queue import Empty
from typing import Any

import grpc
from google.protobuf import message_factory

from tamatar.auth.v1 import session_service_pb2 as s
from tamatar.auth.v1 import user_service_pb2 as u
from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar.auth.v1.user_pb2 import User
from tamatar_auth.client.testing.errors import RefusedError, checked_id, checked_token
from tamatar_auth.client.testing.state import World

SIGN_OF_LIFE = 5.0
"""Seconds after which a stream that has nothing to tell says so."""

_MOST = 1000


class UserService:
    """Reads users."""

    def __init__(self, world: World) -> None:
        self._world = world

    def GetUser(self, request: u.GetUserRequest, _context: Any) -> u.GetUserResponse:
        return u.GetUserResponse(user=self._world.find_user(_finder(request)))

    def BatchGetUsers(
        self, request: u.BatchGetUsersRequest, _context: Any
    ) -> u.BatchGetUsersResponse:
        if not 1 <= len(request.user_ids) <= _MOST:
            raise RefusedError(ErrorReason.INVALID_FIELDS, "user_ids")
        named = (checked_id(f"user_ids[{n}]", each) for n, each in enumerate(request.user_ids))
        answer = u.BatchGetUsersResponse()
        for user_id in dict.fromkeys(named):
            try:
                answer.users.append(self._world.live_user(user_id))
            except RefusedError:
                answer.missing_user_ids.append(user_id)
        return answer


class SessionService:
    """Validates and ends sessions, and tells who watches."""

    def __init__(self, world: World, sign_of_life: float) -> None:
        self._world = world
        self._sign_of_life = sign_of_life

    def ValidateSession(
        self, request: s.ValidateSessionRequest, _context: Any
    ) -> s.ValidateSessionResponse:
        session, user = self._world.good(checked_token("session_token", request.session_token))
        return s.ValidateSessionResponse(session=session, user=user)

    def BatchValidateSessions(
        self, request: s.BatchValidateSessionsRequest, _context: Any
    ) -> s.BatchValidateSessionsResponse:
        if not 1 <= len(request.session_tokens) <= _MOST:
            raise RefusedError(ErrorReason.INVALID_FIELDS, "session_tokens")
        tokens = [
            checked_token(f"session_tokens[{n}]", each)
            for n, each in enumerate(request.session_tokens)
        ]
        return s.BatchValidateSessionsResponse(results=map(self._result, tokens))

    def GetSession(self, request: s.GetSessionRequest, _context: Any) -> s.GetSessionResponse:
        session_id = checked_id("session_id", request.session_id)
        return s.GetSessionResponse(session=self._world.session(session_id))

    def RevokeSession(
        self, request: s.RevokeSessionRequest, _context: Any
    ) -> s.RevokeSessionResponse:
        match request.WhichOneof("session"):
            case "session_id":
                session = self._world.session(checked_id("session_id", request.session_id))
            case "session_token":
                token = checked_token("session_token", request.session_token)
                session = self._world.session_of(token)
            case _:
                raise RefusedError(ErrorReason.INVALID_FIELDS, "session")
        self._world.end(session)
        return s.RevokeSessionResponse(session=session)

    def RevokeUserSessions(
        self, request: s.RevokeUserSessionsRequest, _context: Any
    ) -> s.RevokeUserSessionsResponse:
        user = self._world.live_user(checked_id("user_id", request.user_id))
        kept = request.except_session_id
        kept = checked_id("except_session_id", kept) if kept else ""
        ending = [each for each in self._world.of_user(user.user_id) if each.session_id != kept]
        return s.RevokeUserSessionsResponse(revoked_session_count=self._world.end(*ending))

    def WatchSessions(
        self, _request: s.WatchSessionsRequest, context: Any
    ) -> Iterator[s.WatchSessionsResponse]:
        watcher = self._world.watch()
        try:
            if not context.add_callback(lambda: watcher.put(ErrorReason.STREAM_INTERRUPTED)):
                return
            yield s.WatchSessionsResponse()
            while True:
                try:
                    told = watcher.get(timeout=self._sign_of_life)
                except Empty:
                    yield s.WatchSessionsResponse()
                    continue
                if not isinstance(told, s.SessionEnd):
                    raise RefusedError(told)
                yield s.WatchSessionsResponse(ends=[told])
        finally:
            self._world.leave(watcher)

    def _result(self, token: str) -> s.SessionValidation:
        try:
            session, user = self._world.good(token)
        except RefusedError as refused:
            return s.SessionValidation(refusal=refused.reason)
        return s.SessionValidation(session=session, user=user)


def handlers(
    descriptor: Any, service: Any, calls: "Counter[str]", admit: Callable[[], None]
) -> grpc.GenericRpcHandler:
    """Return the handlers of what a service answers; the rest of its methods is UNIMPLEMENTED."""
    return grpc.method_handlers_generic_handler(
        descriptor.full_name,
        {
            method.name: _handler(method, getattr(service, method.name), calls, admit)
            for method in descriptor.methods
            if hasattr(service, method.name)
        },
    )


def _handler(method: Any, behaviour: Any, calls: "Counter[str]", admit: Callable[[], None]) -> Any:
    def begin() -> None:
        calls[method.name] += 1
        admit()

    def once(request: Any, context: Any) -> Any:
        try:
            begin()
            return behaviour(request, context)
        except RefusedError as refused:
            refused.end(context)

    def stream(request: Any, context: Any) -> Iterator[Any]:
        try:
            begin()
            yield from behaviour(request, context)
        except RefusedError as refused:
            refused.end(context)

    request_type = message_factory.GetMessageClass(method.input_type)
    response_type = message_factory.GetMessageClass(method.output_type)
    codec = (request_type.FromString, response_type.SerializeToString)
    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(stream, *codec)
    return grpc.unary_unary_rpc_method_handler(once, *codec)


def _finder(request: u.GetUserRequest) -> Callable[[User], bool]:
    match request.WhichOneof("identifier"):
        case "user_id":
            user_id = checked_id("user_id", request.user_id)
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
