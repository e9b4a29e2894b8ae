"""The first calls of a user, made by a client in any language."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

from google.protobuf import descriptor_pool, json_format, message_factory

import tamatar.auth.v1.session_service_pb2
import tamatar.auth.v1.user_service_pb2  # noqa: F401 - the pool knows what was imported

PASSWORD = "TestPass123!"

Call = Callable[[str, dict[str, str]], Any]
"""Calls a method with a request; returns the response, or status and reason of a refusal."""


def read_answer(method: str, text: str) -> Any:
    """Parse the response of a method, which must be JSON of its message and nothing else."""
    service, _, name = method.partition("/")
    found = descriptor_pool.Default().FindMethodByName(f"tamatar.auth.v1.{service}.{name}")
    return json_format.Parse(text, message_factory.GetMessageClass(found.output_type)())


def make_first_calls(call: Call) -> None:
    """Create a user, sign in, validate, list and revoke; check the refusals in between."""
    email = f"ada-{uuid4()}@example.com"
    assert call("UserService/CreateUser", {"email": email}).user.email == email
    for twin in (email, email.upper()):
        refused = call("UserService/CreateUser", {"email": twin})
        assert refused == ("ALREADY_EXISTS", "EMAIL_TAKEN")

    started = call("SessionService/CreateSession", who("test1"))
    token = {"session_token": started.session_token}
    valid = call("SessionService/ValidateSession", token)
    assert valid.user.email == "test1@example.com"
    listed = call("SessionService/ListSessions", {"user_id": valid.user.user_id})
    assert valid.session in listed.sessions
    assert call("SessionService/RevokeSession", token).session.HasField("revoke_time")
    refused = call("SessionService/ValidateSession", token)
    assert refused == ("UNAUTHENTICATED", "SESSION_REVOKED")

    refused = call("SessionService/CreateSession", who("test2"))
    assert refused == ("FAILED_PRECONDITION", "EMAIL_NOT_VERIFIED")
    refused = call("SessionService/CreateSession", who("test2", password="a wrong one"))
    assert refused == ("UNAUTHENTICATED", "INVALID_CREDENTIALS")


def who(name: str, password: str = PASSWORD) -> dict[str, str]:
    """Return the credentials of a sample user."""
    return {"email": f"{name}@example.com", "password": password}
