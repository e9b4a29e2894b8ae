"""The calls that are measured, of any user or session by its number, and what is right."""

import base64
import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tamatar.auth.v1 import session_service_pb2 as sessions
from tamatar.auth.v1 import user_service_pb2 as users
from tamatar.auth.v1.session_pb2 import AssuranceLevel
from tamatar_auth.security.tokens import FIRST_DAY

PASSWORD = "correct horse battery staple"
BATCH = 100
PAGE = 50
FIRST_CREATED = 1_735_689_600
"""When the first user was created, in seconds since 1970; the others follow second by second."""
_SESSIONS = "/tamatar.auth.v1.SessionService/"
_USERS = "/tamatar.auth.v1.UserService/"


DAYS = 7
"""The sessions expire on so many days, as those of a service do that is used each day."""

_TODAY = (datetime.now(UTC) - FIRST_DAY).days


def email(number: int) -> str:
    """Return the address of a user."""
    return f"user{number}@example.com"


def user_id(number: int) -> str:
    """Return the id of a user."""
    return str(UUID(int=0x01900000_0000_7000_8000_000000000000 + number))


def token(number: int) -> str:
    """Return the token of a session. The sessions expire within the next week."""
    secret = hashlib.sha256(f"session {number}".encode()).digest()
    header = struct.pack("!BH", 1, _TODAY + 2 + number % DAYS) + secret[:2]
    return "tms_" + base64.urlsafe_b64encode(header + secret).decode().rstrip("=")


@dataclass(frozen=True, slots=True)
class Call:
    """A method, its request for a number, and the check of a response."""

    path: str
    request: Callable[[int], bytes]
    is_right: Callable[[int, bytes], bool]

    @property
    def name(self) -> str:
        """The method's name."""
        return self.path.rpartition("/")[2]


def session_calls(user_count: int) -> dict[str, Call]:
    """Return the calls of SessionService by name. Sessions are spread over the users."""

    def request(message: Any) -> Callable[[int], bytes]:
        return lambda number: message(session_token=token(number)).SerializeToString()

    def of_user(response_type: Any) -> Callable[[int, bytes], bool]:
        def is_right(number: int, encoded: bytes) -> bool:
            return bool(response_type.FromString(encoded).user.email == email(number % user_count))

        return is_right

    def is_revoked(number: int, encoded: bytes) -> bool:
        session = sessions.RevokeSessionResponse.FromString(encoded).session
        of_user = session.user_id == user_id(number % user_count)
        return of_user and session.HasField("revoke_time")

    def batch(number: int) -> bytes:
        tokens = [token((number + step) % user_count) for step in range(BATCH)]
        return sessions.BatchValidateSessionsRequest(session_tokens=tokens).SerializeToString()

    def are_valid(number: int, encoded: bytes) -> bool:
        results = sessions.BatchValidateSessionsResponse.FromString(encoded).results
        expected = [email((number + step) % user_count) for step in range(BATCH)]
        return [result.user.email for result in results] == expected

    validate, refresh = sessions.ValidateSessionRequest, sessions.RefreshSessionRequest
    calls = (
        Call(
            _SESSIONS + "ValidateSession",
            request(validate),
            of_user(sessions.ValidateSessionResponse),
        ),
        Call(
            _SESSIONS + "RefreshSession", request(refresh), of_user(sessions.RefreshSessionResponse)
        ),
        Call(_SESSIONS + "RevokeSession", request(sessions.RevokeSessionRequest), is_revoked),
        Call(_SESSIONS + "BatchValidateSessions", batch, are_valid),
    )
    return {call.name: call for call in calls}


def with_requirements(validate: Call) -> Call:
    """Return ValidateSession with both requirements, which all sessions reach."""
    required = sessions.ValidateSessionRequest(
        min_assurance_level=AssuranceLevel.ASSURANCE_LEVEL_AAL1,
        max_authentication_age=Duration(seconds=2_592_000),
    )
    encoded = required.SerializeToString()
    return replace(validate, request=lambda number: validate.request(number) + encoded)


def _get_user(number: int) -> bytes:
    return users.GetUserRequest(user_id=user_id(number)).SerializeToString()


def _is_user(number: int, encoded: bytes) -> bool:
    return users.GetUserResponse.FromString(encoded).user.email == email(number)


def _list_users(number: int) -> bytes:
    start = Timestamp(seconds=FIRST_CREATED + number)
    filter_ = users.UserFilter(created_from=start)
    request = users.ListUsersRequest(page_size=PAGE, filter=filter_, order_by="create_time")
    return request.SerializeToString()


def _is_page(number: int, encoded: bytes) -> bool:
    listed = users.ListUsersResponse.FromString(encoded).users
    return [user.email for user in listed[:2]] == [email(number), email(number + 1)]


GET_USER = Call(_USERS + "GetUser", _get_user, _is_user)
LIST_USERS = Call(_USERS + "ListUsers", _list_users, _is_page)
EMPTY = Call(
    _SESSIONS + "ValidateSession",
    lambda number: sessions.ValidateSessionRequest(session_token=token(number)).SerializeToString(),
    lambda _, encoded: encoded == b"",
)
