"""WatchSessions: who watches hears of each session that ends, however it ends."""

import pytest

from tamatar.auth.v1 import session_service_pb2 as pb
from tamatar.auth.v1 import user_service_pb2
from tests.calls import change, password_reset, reset, sign_in
from tests.watching import End, watching


async def revoke(_users, sessions, started, _database):
    await sessions.RevokeSession(pb.RevokeSessionRequest(session_id=started.session.session_id))


async def revoke_by_token(_users, sessions, started, _database):
    await sessions.RevokeSession(pb.RevokeSessionRequest(session_token=started.session_token))


async def revoke_all(_users, sessions, started, _database):
    request = pb.RevokeUserSessionsRequest(user_id=started.user.user_id)
    await sessions.RevokeUserSessions(request)


async def change_password(users, _sessions, started, _database):
    await change(users, started.user)


async def reset_password(users, _sessions, _started, _database):
    await reset(users, (await password_reset(users)).token)


async def deactivate(users, _sessions, started, _database):
    request = user_service_pb2.DeactivateUserRequest(user_id=started.user.user_id)
    await users.DeactivateUser(request)


async def delete(users, _sessions, started, _database):
    await users.DeleteUser(user_service_pb2.DeleteUserRequest(user_id=started.user.user_id))


async def purge(users, _sessions, started, _database):
    await users.PurgeUser(user_service_pb2.PurgeUserRequest(user_id=started.user.user_id))


WAYS = [
    revoke,
    revoke_by_token,
    revoke_all,
    change_password,
    reset_password,
    deactivate,
    delete,
    purge,
]


@pytest.mark.parametrize("end", WAYS, ids=lambda way: way.__name__)
async def test_a_session_that_ends_is_told_to_all_who_watch(users, sessions, user, database, end):
    started = await sessions.CreateSession(sign_in())
    async with watching(sessions) as one, watching(sessions) as other:
        await end(users, sessions, started, database)

        for watch in (one, other):
            await watch.heard(End(user.user_id, started.session.session_id))
