"""`tamatar-auth session`: lists and revokes sessions."""

import json
import re
from uuid import uuid4

import grpc
import pytest

from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tests.support.calls import PASSWORD, sign_in
from tests.support.terminals import type_into


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


@pytest.fixture
def user_email(cli):
    """The address of a user without sessions."""
    email = f"{uuid4().hex}@example.com"
    cli("user", "create", email, "--verified", "--password-stdin", entered=f"{PASSWORD}\n")
    return email


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


def test_session_create_prints_token_that_validates(cli, user_email):
    signed_in = ("session", "create", user_email, "--password-stdin")
    created = json.loads(cli(*signed_in, "-o", "json", entered=f"{PASSWORD}\n").stdout)
    token = cli(*signed_in, "--print-token", entered=f"{PASSWORD}\n").stdout
    in_json = cli(*signed_in, "--print-token", "-o", "json", entered=f"{PASSWORD}\n").stdout
    third = json.loads(in_json)
    assert third["session_token"].startswith("tms_")

    validate = ("session", "validate", "--token-stdin")
    found = json.loads(cli(*validate, "-o", "json", entered=created["session_token"]).stdout)
    assert found["session"]["session_id"] == created["session"]["session_id"]
    assert found["user"]["email"] == user_email
    assert found["session"]["client"]["user_agent"].startswith("tamatar-auth/")
    assert token.startswith("tms_")
    other = cli(*validate, "-o", "name", entered=token).stdout.strip()
    every = {found["session"]["session_id"], other, third["session"]["session_id"]}
    assert set(ids(cli, user_email)) == every


def test_session_validate_of_ended_session_prints_reason(cli, user_email):
    signed_in = ("session", "create", user_email, "--password-stdin", "--print-token")
    token = cli(*signed_in, entered=f"{PASSWORD}\n").stdout
    cli("session", "revoke", "--token-stdin", entered=token)

    ended = cli("session", "validate", "--token-stdin", entered=token, code=1)
    unknown = cli("session", "validate", "--token-stdin", entered="tms_unknown", code=1)

    assert ended.stderr == "The session was revoked. (SESSION_REVOKED)\n"
    assert "(SESSION_UNKNOWN)" in unknown.stderr
    assert not ended.stdout + unknown.stdout


def test_session_create_with_wrong_password_is_refused(cli, user_email):
    create = ("session", "create", user_email)

    wrong = cli(*create, "--password-stdin", entered="not the password\n", code=1).stderr
    assert "(INVALID_CREDENTIALS)" in wrong
    assert "Use --password-stdin" in cli(*create, code=2).stderr
    assert "Use --token-stdin" in cli("session", "validate", code=2).stderr


def test_session_create_at_terminal_hides_the_password(surroundings, tmp_path, user_email):
    words = ("session", "create", user_email, "-o", "name")
    keys = f"{PASSWORD}\n".encode()

    code, screen = type_into(
        *words, prompt=b"Password: ", keys=keys, cwd=tmp_path, env=surroundings
    )

    assert code == 0
    assert PASSWORD.encode() not in screen
    assert re.search(rb"\r\n[0-9a-f-]{36}\r\n", screen)
