"""First calls to the service of `make run`. Run: python examples/first_calls.py [ADDRESS]."""
# ruff: noqa: INP001, S106, T201 - a script, which prints, with the published password of a sample

import sys
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from tamatar.auth.v1 import session_service_pb2 as s
from tamatar.auth.v1 import user_service_pb2 as u
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub


def print_failure(method: Callable[[Any], object], request: object) -> None:
    """Make a call that fails, and print its status and reason."""
    try:
        method(request)
    except grpc.RpcError as error:
        assert isinstance(error, grpc.Call)  # noqa: PT017, S101 - for type checkers
        status = rpc_status.from_call(error)
        print(error.code().name, ErrorInfo.FromString(status.details[0].value).reason)


with grpc.insecure_channel(sys.argv[1] if sys.argv[1:] else "127.0.0.1:50051") as channel:
    users, sessions = UserServiceStub(channel), SessionServiceStub(channel)
    email = f"ada-{uuid4()}@example.com"
    users.CreateUser(u.CreateUserRequest(email=email, first_name="Ada"))
    print_failure(users.CreateUser, u.CreateUserRequest(email=email))
    print_failure(users.CreateUser, u.CreateUserRequest(email=email.upper()))

    test1 = s.CreateSessionRequest(email="test1@example.com", password="TestPass123!")
    token = sessions.CreateSession(test1).session_token
    user = sessions.ValidateSession(s.ValidateSessionRequest(session_token=token)).user
    live = sessions.ListSessions(s.ListSessionsRequest(user_id=user.user_id)).sessions
    print(user.email, "has live sessions:", len(live))
    sessions.RevokeSession(s.RevokeSessionRequest(session_token=token))
    print_failure(sessions.ValidateSession, s.ValidateSessionRequest(session_token=token))

    for password in ("TestPass123!", "a wrong one"):
        test2 = s.CreateSessionRequest(email="test2@example.com", password=password)
        print_failure(sessions.CreateSession, test2)
