"""RefreshSession and limits of sessions over a real channel, on a real database."""

import asyncio
from datetime import timedelta

import pytest
from grpc import StatusCode
from sqlalchemy import func, select, update

from tamatar.auth.v1 import session_service_pb2
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.server.app import run_service
from tamatar_auth.storage.tables import sessions as sessions_table
from tamatar_auth.storage.tables import users as users_table
from tests.server.test_app import channel_to
from tests.support.calls import ada, refresh, refusal, sign_in, validate, verify
from tests.support.rows import expire, run
from tests.support.settings import changed


async def test_refresh_returns_new_token_and_keeps_old_for_a_while(sessions, user):
    started = await sessions.CreateSession(sign_in())

    fresh = await refresh(sessions, started.session_token)

    assert fresh.session_token != started.session_token
    assert fresh.session.session_id == started.session.session_id
    assert fresh.session.expire_time == started.session.expire_time
    for token in (started.session_token, fresh.session_token):
        await validate(sessions, token)


async def test_20_concurrent_refreshes_return_one_token(sessions, user):
    token = (await sessions.CreateSession(sign_in())).session_token

    answers = await asyncio.gather(*(refresh(sessions, token) for _ in range(20)))

    assert len({answer.session_token for answer in answers}) == 1
    await validate(sessions, answers[0].session_token)


async def test_reuse_after_grace_ends_session(sessions, user, database):
    token = (await sessions.CreateSession(sign_in())).session_token
    fresh = await refresh(sessions, token)
    await run(
        database, update(sessions_table).values(rotated_at=func.now() - timedelta(seconds=11))
    )

    assert await refusal(validate(sessions, token)) == (
        StatusCode.UNAUTHENTICATED,
        "SESSION_UNKNOWN",
    )
    assert await refusal(refresh(sessions, token)) == (StatusCode.UNAUTHENTICATED, "SESSION_REUSED")
    for ended in (token, fresh.session_token):
        assert (await refusal(refresh(sessions, ended)))[1] == "SESSION_REVOKED"


@pytest.mark.parametrize(
    ("ended", "reason"),
    [
        ("revoked", "SESSION_REVOKED"),
        ("expired", "SESSION_EXPIRED"),
        ("inactive", "USER_INACTIVE"),
    ],
)
async def test_refresh_of_ended_session_is_refused(users, sessions, user, database, ended, reason):
    token = (await sessions.CreateSession(sign_in())).session_token
    if ended == "revoked":
        request = session_service_pb2.RevokeSessionRequest(session_token=token)
        await sessions.RevokeSession(request)
    elif ended == "expired":
        token = await expire(database, token)
    else:
        await run(database, update(users_table).values(is_active=False))

    assert (await refusal(refresh(sessions, token)))[1] == reason


async def test_session_above_limit_ends_oldest(settings, database):
    few = changed(settings, sessions_per_user=3)
    async with run_service(few) as service, channel_to(service) as channel:
        created = await UserServiceStub(channel).CreateUser(ada())
        await verify(database, created.user)
        sessions = SessionServiceStub(channel)
        tokens = [(await sessions.CreateSession(sign_in())).session_token for _ in range(5)]

        for token in tokens[:2]:
            assert (await refusal(validate(sessions, token)))[1] == "SESSION_REVOKED"
        for token in tokens[2:]:
            await validate(sessions, token)


async def test_session_idle_limit_counts_from_last_use(settings, database):
    idle = changed(settings, session_idle_limit=timedelta(minutes=30))
    async with run_service(idle) as service, channel_to(service) as channel:
        created = await UserServiceStub(channel).CreateUser(ada())
        await verify(database, created.user)
        sessions = SessionServiceStub(channel)
        token = (await sessions.CreateSession(sign_in())).session_token
        rested = update(sessions_table).values(last_activity_at=func.now() - timedelta(minutes=29))
        await run(database, rested)
        await validate(sessions, token)
        await service.components.activity.flush(service.database)
        age = select(func.now() - sessions_table.c.last_activity_at)
        assert (await run(database, age)).scalar_one() < timedelta(minutes=1)

        rested = update(sessions_table).values(last_activity_at=func.now() - timedelta(minutes=31))
        await run(database, rested)
        assert (await refusal(validate(sessions, token)))[1] == "SESSION_IDLE"
        assert (await refusal(refresh(sessions, token)))[1] == "SESSION_IDLE"
