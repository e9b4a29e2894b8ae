"""WatchSessions: a watch receives each end of a session, and nothing else."""

import contextlib
from datetime import timedelta
from uuid import UUID

import grpc
import pytest
from grpc import StatusCode
from sqlalchemy import func, text

from tamatar.auth.v1 import session_service_pb2 as pb
from tamatar.auth.v1 import user_service_pb2
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar_auth.interceptors import authentication
from tamatar_auth.jobs.sweep import sweep
from tamatar_auth.observability.telemetry import Telemetry
from tamatar_auth.security.caller_file_editor import CallerFile
from tamatar_auth.security.callers import Role
from tamatar_auth.server.app import run_service
from tamatar_auth.servicers import sessions as session_servicer
from tamatar_auth.storage.tables import sessions as sessions_table
from tests.server.test_app import channel_to
from tests.support.calls import (
    NEW_PASSWORD,
    PASSWORD,
    change,
    password_reset,
    refresh,
    refusal,
    reset,
    sign_in,
    validate,
)
from tests.support.session_watchers import End, watching
from tests.support.settings import changed
from tests.support.telemetry_capture import Recording
from tests.support.waiting import eventually

BUSY = (StatusCode.RESOURCE_EXHAUSTED, "SERVER_BUSY")


class Scene:
    """A session that is about to end."""

    def __init__(self, users, sessions, database, started):
        self.users, self.sessions, self.database = users, sessions, database
        self.started, self.user = started, started.user
        self.end = End(started.user.user_id, started.session.session_id)

    async def of_user(self, method):
        """Call a method that takes only the user's id."""
        request = getattr(user_service_pb2, f"{method}Request")(user_id=self.user.user_id)
        await getattr(self.users, method)(request)

    async def sql(self, statement, **values):
        """Change the table without the service."""
        values |= {"session": self.end.session_id, "user": self.end.user_id}
        async with self.database.transaction() as tx:
            bound = {name: values[name] for name in values if f":{name}" in statement}
            await tx.connection.execute(text(statement), bound)


@pytest.fixture
async def scene(users, sessions, user, database):
    return Scene(users, sessions, database, await sessions.CreateSession(sign_in()))


async def revoke(scene):
    request = pb.RevokeSessionRequest(session_id=scene.end.session_id)
    await scene.sessions.RevokeSession(request)


async def revoke_by_token(scene):
    request = pb.RevokeSessionRequest(session_token=scene.started.session_token)
    await scene.sessions.RevokeSession(request)


async def revoke_all(scene):
    request = pb.RevokeUserSessionsRequest(user_id=scene.end.user_id)
    await scene.sessions.RevokeUserSessions(request)


async def change_password(scene):
    await change(scene.users, scene.user)


async def reset_password(scene):
    await reset(scene.users, (await password_reset(scene.users)).token)


async def deactivate(scene):
    await scene.of_user("DeactivateUser")


async def delete(scene):
    await scene.of_user("DeleteUser")


async def purge(scene):
    await scene.of_user("PurgeUser")


async def reuse(scene):
    token = scene.started.session_token
    await refresh(scene.sessions, (await refresh(scene.sessions, token)).session_token)
    assert await refusal(refresh(scene.sessions, token)) == (
        StatusCode.UNAUTHENTICATED,
        "SESSION_REUSED",
    )


async def revoke_by_hand(scene):
    await scene.sql("UPDATE sessions SET is_valid = false, revoked_at = now() WHERE id = :session")


async def shorten_by_hand(scene):
    await scene.sql("UPDATE sessions SET expires_at = now() + interval '1 s' WHERE id = :session")


async def delete_by_hand(scene):
    await scene.sql("DELETE FROM sessions WHERE id = :session")


WAYS = [
    revoke,
    revoke_by_token,
    revoke_all,
    change_password,
    reset_password,
    deactivate,
    delete,
    purge,
    reuse,
    revoke_by_hand,
    shorten_by_hand,
    delete_by_hand,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_session_end_reaches_all_watches(scene, way):
    async with watching(scene.sessions) as one, watching(scene.sessions) as other:
        await way(scene)

        for watch in (one, other):
            await watch.wait_for(scene.end)


async def test_session_end_by_limit_reaches_watch(settings, database, user):
    mine = changed(settings, sessions_per_user=1)
    async with run_service(mine) as service, channel_to(service) as channel:
        sessions = SessionServiceStub(channel)
        async with watching(sessions) as watch:
            oldest = await sessions.CreateSession(sign_in())
            await sessions.CreateSession(sign_in())

            await watch.wait_for(End(user.user_id, oldest.session.session_id))


async def test_user_barred_by_sql_reaches_watch_without_session(scene):
    async with watching(scene.sessions) as watch:
        await scene.sql("UPDATE users SET is_active = false WHERE id = :user")

        await watch.wait_for(End(scene.user.user_id, ""))


async def nothing(_scene):
    """Change nothing."""


async def sign_in_again(scene):
    await scene.sessions.CreateSession(sign_in())


async def rotate(scene):
    await refresh(scene.sessions, scene.started.session_token)


async def use(scene):
    await age(scene, last_activity_at=func.now() - timedelta(minutes=5))
    await validate(scene.sessions, scene.started.session_token)
    async with scene.database.transaction() as tx:
        session = await tx.sessions.get(UUID(scene.end.session_id))
        await tx.sessions.touch({session.id: session.expires_at})


async def rename(scene):
    request = user_service_pb2.UpdateUserRequest(
        user_id=scene.user.user_id, first_name="Augusta", update_mask={"paths": ["first_name"]}
    )
    await scene.users.UpdateUser(request)


async def roll_back(scene):
    with contextlib.suppress(LookupError):
        async with scene.database.transaction() as tx:
            await tx.sessions.revoke(UUID(scene.end.session_id))
            await tx.users.set_active(UUID(scene.end.user_id), active=False)
            raise LookupError


async def age(scene, **columns):
    async with scene.database.transaction() as tx:
        await tx.connection.execute(sessions_table.update().values(columns))


@pytest.mark.parametrize(
    "way",
    [nothing, sign_in_again, rotate, use, rename, roll_back],
    ids=lambda way: way.__name__,
)
async def test_change_that_ends_no_session_reaches_no_watch(scene, way):
    async with watching(scene.sessions) as watch:
        await way(scene)
        last = await another_end(scene)

        await watch.wait_for(last)
    assert watch.ends == [last]


async def test_repeated_session_end_reaches_watch_once(scene):
    async with watching(scene.sessions) as watch:
        for _ in range(3):
            await revoke(scene)
        # On the same day, so in the same partition.
        await scene.sql("UPDATE sessions SET expires_at = expires_at + interval '1 microsecond'")
        last = await another_end(scene)

        await watch.wait_for(last)
    assert watch.ends == [scene.end, last]


async def another_end(scene, password=PASSWORD):
    """End another session; a watch that received its end has received all earlier ones."""
    started = await scene.sessions.CreateSession(sign_in(password=password))
    session_id = started.session.session_id
    await scene.sessions.RevokeSession(pb.RevokeSessionRequest(session_id=session_id))
    return End(scene.user.user_id, session_id)


@pytest.mark.parametrize(
    "ended",
    [
        {"is_valid": False, "revoked_at": func.now() - timedelta(days=60)},
        {
            "created_at": func.now() - timedelta(days=9),
            "expires_at": func.now() - timedelta(days=2),
        },
    ],
    ids=["revoked", "expired"],
)
async def test_swept_session_reaches_no_watch(scene, settings, ended):
    await age(scene, **ended)
    async with watching(scene.sessions) as watch:
        swept = await sweep(scene.database, settings.retention)
        last = await another_end(scene)

        await watch.wait_for(last)
    assert swept.ended_sessions + swept.expired_sessions == 1
    assert watch.ends == [last]


async def test_kept_session_reaches_no_watch(scene):
    kept = await scene.sessions.CreateSession(sign_in())
    async with watching(scene.sessions) as watch:
        await change(scene.users, scene.user, keep_session_id=kept.session.session_id)
        last = await another_end(scene, NEW_PASSWORD)

        await watch.wait_for(last)
    assert watch.ends == [scene.end, last]


async def test_idle_watch_receives_keepalives(scene, monkeypatch):
    monkeypatch.setattr(session_servicer, "KEEPALIVE_INTERVAL", 0.05)
    async with watching(scene.sessions) as watch:
        assert [await watch.read() for _ in range(3)] == [[], [], []]
        await revoke(scene)
        await watch.wait_for(scene.end)


async def test_streams_are_limited_in_all_and_per_connection(settings, database):
    mine = changed(settings, streams=3, streams_per_connection=2)
    recording = Recording()
    telemetry = Telemetry(meter=recording.meter)
    async with run_service(mine, telemetry) as service, contextlib.AsyncExitStack() as stack:
        one, other = [
            SessionServiceStub(await stack.enter_async_context(apart(service))) for _ in range(2)
        ]
        first = await stack.enter_async_context(watching(one))
        await stack.enter_async_context(watching(one))
        assert await refusal(begin(one)) == BUSY

        await stack.enter_async_context(watching(other))
        assert await refusal(begin(other)) == BUSY
        assert [point.value for point in recording.points("tamatar.stream.count")] == [3]
        assert [point.value for point in recording.points("tamatar.stream.refused")] == [2]

        first.call.cancel()
        await eventually(lambda: is_free(one))


def apart(service):
    """Open a connection that no other channel shares."""
    own = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.insecure_channel(str(service.addresses[0]), options=own)


async def begin(sessions):
    return await sessions.WatchSessions(pb.WatchSessionsRequest()).read()


async def is_free(sessions):
    call = sessions.WatchSessions(pb.WatchSessionsRequest())
    with contextlib.suppress(grpc.aio.AioRpcError):
        await call.read()
        return True
    return False


async def test_removed_caller_loses_its_watch(settings, database, tmp_path, monkeypatch):
    monkeypatch.setattr(authentication, "RECHECK_INTERVAL", 0.05)
    monkeypatch.setattr(session_servicer, "KEEPALIVE_INTERVAL", 0.05)
    file = CallerFile(tmp_path / "callers.toml")
    month = timedelta(days=30)
    tokens = {name: file.add(name, [Role.VALIDATOR], month) for name in ("leaves", "stays")}
    mine = changed(settings, callers_file=tmp_path / "callers.toml")
    async with run_service(mine) as service, channel_to(service) as channel:
        sessions = SessionServiceStub(channel)
        leaves, stays = [
            watching(sessions, metadata=(("authorization", f"Bearer {token.text}"),))
            for token in tokens.values()
        ]
        async with leaves as watch, stays as other:
            file.remove("leaves")

            said = await watch.refusal()
            assert (said.code, said.reason) == (StatusCode.UNAUTHENTICATED, "CALLER_UNKNOWN")
            assert [await other.read() for _ in range(20)] == [[]] * 20
