"""Idle sessions: they are not live anywhere, and stay ended."""

from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import func, select, update

from tamatar.auth.v1 import session_service_pb2, user_service_pb2
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.jobs.sweep import SweepResult, sweep
from tamatar_auth.server.app import run_service
from tamatar_auth.storage.tables import sessions as sessions_table
from tests.server.test_app import channel_to
from tests.support.calls import ada, change, refresh, refusal, sign_in, validate
from tests.support.rows import run
from tests.support.settings import changed

LIMIT = timedelta(minutes=2)
SECOND = timedelta(seconds=1)


class Scene:
    """A server with an idle limit, and Ada's sessions on it."""

    def __init__(self, service, database, channel):
        self.service = service
        self.database = database
        self.users = UserServiceStub(channel)
        self.sessions = SessionServiceStub(channel)

    async def start(self, *, unused_for=timedelta(0)):
        """Sign Ada in, and return the session with its token."""
        started = await self.sessions.CreateSession(sign_in())
        await self.age(started, unused_for)
        return started

    async def age(self, started, unused_for):
        of_session = update(sessions_table).where(
            sessions_table.c.id == UUID(started.session.session_id)
        )
        await run(self.database, of_session.values(last_activity_at=func.now() - unused_for))

    async def flush(self):
        await self.service.components.activity.flush(self.service.database)

    async def unused_seconds(self):
        """Return how long ago the last known use of the only session was."""
        age = select(func.now() - sessions_table.c.last_activity_at)
        return (await run(self.database, age)).scalar_one().total_seconds()

    async def listed(self, *, include_ended=False):
        request = session_service_pb2.ListSessionsRequest(
            user_id=self.user.user_id, include_ended=include_ended
        )
        return {it.session_id for it in (await self.sessions.ListSessions(request)).sessions}


@pytest.fixture
async def scene(settings, database):
    limited = changed(settings, session_idle_limit=LIMIT, sessions_per_user=2)
    async with run_service(limited) as service, channel_to(service) as channel:
        scene = Scene(service, database, channel)
        scene.user = (await scene.users.CreateUser(ada(email_verified=True))).user
        yield scene


async def test_idle_session_is_listed_as_ended_only(scene):
    live, idle = await scene.start(), await scene.start(unused_for=LIMIT)

    request = user_service_pb2.GetUserRequest(
        user_id=scene.user.user_id, include_recent_sessions=True
    )
    recent = (await scene.users.GetUser(request)).recent_sessions

    assert await scene.listed() == {live.session.session_id}
    assert [it.session_id for it in recent] == [live.session.session_id]
    assert idle.session.session_id in await scene.listed(include_ended=True)


async def test_idle_session_does_not_count_against_limit(scene):
    oldest, _ = await scene.start(), await scene.start(unused_for=LIMIT)

    newest = await scene.start()

    for live in (oldest, newest):
        await validate(scene.sessions, live.session_token)


@pytest.mark.parametrize("how", ["revocation", "password change", "deactivation", "deletion"])
async def test_idle_session_is_revoked_and_not_counted(scene, how):
    user_id = scene.user.user_id
    await scene.start()
    idle = await scene.start(unused_for=LIMIT)
    calls = {
        "revocation": lambda: scene.sessions.RevokeUserSessions(
            session_service_pb2.RevokeUserSessionsRequest(user_id=user_id)
        ),
        "password change": lambda: change(scene.users, scene.user),
        "deactivation": lambda: scene.users.DeactivateUser(
            user_service_pb2.DeactivateUserRequest(user_id=user_id)
        ),
        "deletion": lambda: scene.users.DeleteUser(
            user_service_pb2.DeleteUserRequest(user_id=user_id)
        ),
    }

    assert (await calls[how]()).revoked_session_count == 1

    await scene.age(idle, timedelta(0))  # as if the limit were longer now
    refused = await refusal(validate(scene.sessions, idle.session_token))
    assert refused[1] == "SESSION_REVOKED"


async def test_use_is_recorded_within_quarter_of_idle_limit(scene):
    started = await scene.start(unused_for=LIMIT / 4 + SECOND)

    await validate(scene.sessions, started.session_token)
    await scene.flush()

    assert await scene.unused_seconds() < LIMIT.total_seconds() / 4


async def test_late_record_of_use_does_not_revive_idle_session(scene):
    started = await scene.start(unused_for=LIMIT / 2)
    await validate(scene.sessions, started.session_token)
    await scene.age(started, LIMIT)
    assert (await refusal(validate(scene.sessions, started.session_token)))[1] == "SESSION_IDLE"

    await scene.flush()

    for call in (validate, refresh):
        assert (await refusal(call(scene.sessions, started.session_token)))[1] == "SESSION_IDLE"


async def test_sweep_removes_idle_sessions_only(scene):
    revoked = await scene.start()
    request = session_service_pb2.RevokeSessionRequest(session_token=revoked.session_token)
    await scene.sessions.RevokeSession(request)
    await scene.age(revoked, LIMIT)
    live, idle = await scene.start(unused_for=LIMIT / 2), await scene.start(unused_for=LIMIT)
    retention = scene.service.settings.retention
    database = scene.service.database

    assert await sweep(database, retention, dry_run=True) == SweepResult(idle_sessions=1)
    assert await sweep(database, retention) == SweepResult(idle_sessions=1)

    kept = {live.session.session_id, revoked.session.session_id}
    assert await scene.listed(include_ended=True) == kept
    refused = await refusal(validate(scene.sessions, idle.session_token))
    assert refused[1] == "SESSION_UNKNOWN"
