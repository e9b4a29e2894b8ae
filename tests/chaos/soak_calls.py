"""The calls of a soak: random ones, to users and sessions that come and go."""

import asyncio
import random
from collections import deque
from typing import Any, Self
from uuid import uuid4

import grpc
from google.protobuf.field_mask_pb2 import FieldMask

from tamatar.auth.v1 import session_service_pb2, user_service_pb2
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tests.support.calls import ada, password_reset, refresh, sign_in, validate, verification

USERS = 100
TOKENS = 500

WEIGHTS = {
    "validate": 40,
    "batch": 5,
    "get": 15,
    "list": 3,
    "list_sessions": 3,
    "sign_in": 8,
    "refresh": 8,
    "revoke": 4,
    "update": 5,
    "verification": 3,
    "reset": 3,
    "create": 3,
}


class Crowd:
    """Users with sessions, and the calls about them."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._users: Any = UserServiceStub(channel)
        self._sessions: Any = SessionServiceStub(channel)
        self._known: deque[Any] = deque(maxlen=USERS)
        self._tokens: deque[str] = deque(maxlen=TOKENS)

    @classmethod
    async def gathered(cls, channel: grpc.aio.Channel) -> Self:
        """Create the first users, each with a session."""
        crowd = cls(channel)
        for each in await asyncio.gather(*(crowd._create() for _ in range(USERS))):
            crowd.remember(each)
        for each in await asyncio.gather(*(crowd._sign_in() for _ in range(USERS))):
            crowd.remember(each)
        return crowd

    def call(self) -> Any:
        """Make a random call."""
        (name,) = random.choices([*WEIGHTS], [*WEIGHTS.values()])
        return getattr(self, f"_{name}")()

    def remember(self, answer: Any) -> None:
        """Remember the values of a response."""
        if isinstance(answer, user_service_pb2.CreateUserResponse):
            self._known.append(answer.user)
        if hasattr(answer, "session_token"):
            self._tokens.append(answer.session_token)

    @property
    def _user(self) -> Any:
        return random.choice(self._known)

    @property
    def _token(self) -> str:
        return random.choice(self._tokens)

    def _create(self) -> Any:
        return self._users.CreateUser(ada(email=f"{uuid4()}@example.com", email_verified=True))

    def _sign_in(self) -> Any:
        return self._sessions.CreateSession(sign_in(email=self._user.email))

    def _validate(self) -> Any:
        return validate(self._sessions, self._token)

    def _refresh(self) -> Any:
        return refresh(self._sessions, self._token)

    def _batch(self) -> Any:
        tokens = [self._token for _ in range(20)]
        request = session_service_pb2.BatchValidateSessionsRequest(session_tokens=tokens)
        return self._sessions.BatchValidateSessions(request)

    def _revoke(self) -> Any:
        request = session_service_pb2.RevokeSessionRequest(session_token=self._token)
        return self._sessions.RevokeSession(request)

    def _get(self) -> Any:
        request = user_service_pb2.GetUserRequest(
            user_id=self._user.user_id, include_profile=True, include_recent_sessions=True
        )
        return self._users.GetUser(request)

    def _list(self) -> Any:
        return self._users.ListUsers(user_service_pb2.ListUsersRequest(page_size=20))

    def _list_sessions(self) -> Any:
        request = session_service_pb2.ListSessionsRequest(user_id=self._user.user_id, page_size=20)
        return self._sessions.ListSessions(request)

    def _update(self) -> Any:
        request = user_service_pb2.UpdateUserRequest(
            user_id=self._user.user_id,
            first_name=f"Ada {random.randrange(1000)}",
            update_mask=FieldMask(paths=["first_name"]),
        )
        return self._users.UpdateUser(request)

    def _verification(self) -> Any:
        return verification(self._users, self._user)

    def _reset(self) -> Any:
        return password_reset(self._users, self._user.email)
