"""Refused sign-ins are alike for every cause: in message, details and statements."""

import pytest
from grpc import StatusCode
from sqlalchemy import update

from tamatar.auth.v1 import session_service_pb2, user_service_pb2
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar_auth.server.app import run_service
from tamatar_auth.storage.repositories.login_attempts import FREE_ATTEMPTS
from tamatar_auth.storage.tables import users as users_table
from tests.server.test_app import channel_to
from tests.support.call_statements import statements_of_calls
from tests.support.calls import PASSWORD, ada, refusal, refused, sign_in, verify
from tests.support.factors import enrol
from tests.support.passkey_calls import register_passkey
from tests.support.rows import wait_longer

PASSWORDS = {"1 byte": "x", "73 bytes": "x" * 73, "1 KiB": "😀" * 256}


async def unknown(_users, _database, _user):
    return "unknown@example.com"


async def wrong(_users, _database, _user):
    return "ada@example.com"


async def deleted(users, _database, user):
    await users.DeleteUser(user_service_pb2.DeleteUserRequest(user_id=user.user_id))
    return "ada@example.com"


async def inactive(users, _database, user):
    await users.DeactivateUser(user_service_pb2.DeactivateUserRequest(user_id=user.user_id))
    return "ada@example.com"


async def no_password(users, _database, _user):
    await users.CreateUser(ada(email="bob@example.com", password=""))
    return "bob@example.com"


async def corrupt_hash(_users, database, _user):
    async with database.transaction() as tx:
        await tx.connection.execute(update(users_table).values(password_hash="corrupt"))
    return "ada@example.com"


KINDS = [unknown, wrong, deleted, inactive, no_password, corrupt_hash]


async def outcome(service, sessions, email, password):
    """Fail to sign in; return the refusal and the statements of the call."""
    with statements_of_calls(service) as statements:
        said = await refused(sessions.CreateSession(sign_in(email=email, password=password)))
    return said, statements


@pytest.fixture
async def user(users, database):
    created = await users.CreateUser(ada())
    await verify(database, created.user)
    return created.user


@pytest.mark.parametrize("length", PASSWORDS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
async def test_every_cause_is_refused_alike(service, users, sessions, database, user, kind, length):
    reference = await outcome(service, sessions, "reference@example.com", "x")
    email = await kind(users, database, user)

    said, statements = await outcome(service, sessions, email, PASSWORDS[length])

    assert (said, statements) == reference
    assert said.code is StatusCode.UNAUTHENTICATED
    assert len(statements) == 3


async def app(factors, user, database):
    await enrol(factors, user, database)


async def passkey(factors, user, _database):
    await register_passkey(factors, user)


@pytest.mark.parametrize("factor", [app, passkey], ids=lambda factor: factor.__name__)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
async def test_every_cause_with_second_factor_is_refused_alike(
    service, users, sessions, factors, database, user, kind, factor
):
    reference = await outcome(service, sessions, "reference@example.com", "x")
    await factor(factors, user, database)
    email = await kind(users, database, user)

    assert await outcome(service, sessions, email, "x") == reference


@pytest.mark.parametrize("length", PASSWORDS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
async def test_every_cause_is_throttled_alike(
    service, users, sessions, database, user, kind, length
):
    email = await kind(users, database, user)
    for _ in range(FREE_ATTEMPTS + 1):
        await outcome(service, sessions, "reference@example.com", "x")
        await outcome(service, sessions, email, PASSWORDS[length])

    await wait_longer(database)
    reference = await outcome(service, sessions, "reference@example.com", "x")
    said, statements = await outcome(service, sessions, email, PASSWORDS[length])

    assert (said, statements) == reference
    assert said.code is StatusCode.RESOURCE_EXHAUSTED


async def change(users, user):
    request = user_service_pb2.ChangePasswordRequest(
        user_id=user.user_id, current_password=PASSWORD, new_password="another horse battery"
    )
    await users.ChangePassword(request)


async def reset(users, _user):
    asked = user_service_pb2.CreatePasswordResetRequest(email="ada@example.com")
    token = (await users.CreatePasswordReset(asked)).token
    request = user_service_pb2.ResetPasswordRequest(
        token=token, new_password="another horse battery"
    )
    await users.ResetPassword(request)


async def deactivate(users, user):
    await users.DeactivateUser(user_service_pb2.DeactivateUserRequest(user_id=user.user_id))


async def deactivate_and_activate(users, user):
    await deactivate(users, user)
    await users.ActivateUser(user_service_pb2.ActivateUserRequest(user_id=user.user_id))


async def delete(users, user):
    await users.DeleteUser(user_service_pb2.DeleteUserRequest(user_id=user.user_id))


async def delete_and_restore(users, user):
    await delete(users, user)
    await users.RestoreUser(user_service_pb2.RestoreUserRequest(user_id=user.user_id))


async def purge(users, user):
    await users.PurgeUser(user_service_pb2.PurgeUserRequest(user_id=user.user_id))


ENDINGS = [
    change,
    reset,
    deactivate,
    deactivate_and_activate,
    delete,
    delete_and_restore,
    purge,
]


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.__name__)
async def test_session_ended_by_user_change_is_refused_elsewhere(
    settings, users, sessions, user, ending
):
    token = (await sessions.CreateSession(sign_in())).session_token
    request = session_service_pb2.ValidateSessionRequest(session_token=token)
    async with run_service(settings) as other, channel_to(other) as channel:
        elsewhere = SessionServiceStub(channel)
        await elsewhere.ValidateSession(request)

        await ending(users, user)

        code, reason = await refusal(elsewhere.ValidateSession(request))
        assert code is StatusCode.UNAUTHENTICATED
        assert reason == ("SESSION_UNKNOWN" if ending is purge else "SESSION_REVOKED")
