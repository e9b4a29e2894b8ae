"""`tamatar-auth session`: lists and revokes sessions."""

import json
from uuid import uuid4

import grpc
import pytest

from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tests.support.calls import PASSWORD, sign_in


@pytest.fixture
async def signed_in(cli, server_address):
    """The address of a user, and her three sessions."""
    email = f"{uuid4().hex}@example.com"
    cli("user", "create", email, "--verified", "--password-stdin", entered=f"{PASSWORD}\n")
    async with grpc.aio.insecure_channel(server_address) as channel:
        stub = SessionServiceStub(channel)
        client = {"user_agent": "a test", "ip_address": "192.0.2.7"}
        made = [await stub.CreateSession(sign_in(email=email, client=client)) for _ in range(3)]
    return email, made


def ids(cli, email, *options):
    listed = json.loads(cli("session", "list", email, "-o", "json", *options).stdout)
    return [session["session_id"] for session in listed["sessions"]]


async def test_session_commands_list_and_revoke_one_by_one(cli, signed_in):
    email, made = signed_in
    first, second, third = (one.session.session_id for one in made)

    assert set(ids(cli, email)) == {first, second, third}
    table = cli("session", "list", email).stdout
    assert "a test" in table
    assert "192.0.2.7" in table
    cli("session", "revoke", first)
    cli("session", "revoke", "--token-stdin", entered=f"{made[1].session_token}\n")
    assert ids(cli, email) == [third]
    assert len(ids(cli, email, "--ended")) == 3
    assert (
        len(
            json.loads(cli("user", "get", email, "--sessions", "-o", "json").stdout)[
                "recent_sessions"
            ]
        )
        == 1
    )
    assert third in cli("user", "get", email, "--sessions").stdout


async def test_session_revoke_user_keeps_excepted_one(cli, signed_in):
    email, made = signed_in
    kept = made[0].session.session_id

    assert "Use --yes" in cli("session", "revoke-user", email, code=2).stderr
    assert (
        "2 sessions were ended"
        in cli("session", "revoke-user", email, "--except", kept, "--yes").stderr
    )
    assert ids(cli, email) == [kept]
    counted = cli("session", "revoke-user", email, "--yes", "-o", "json").stdout
    assert json.loads(counted) == {"revoked_session_count": 1}


def test_session_revoke_of_unknown_session_is_reported(cli):
    assert "SESSION_NOT_FOUND" in cli("session", "revoke", str(uuid4()), code=4).stderr
    assert "session_id must be a UUID" in cli("session", "revoke", "17", code=1).stderr
    assert "Name a session" in cli("session", "revoke", code=2).stderr
