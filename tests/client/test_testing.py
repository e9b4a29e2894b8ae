"""The fake service, compared with the real one."""

import asyncio
from datetime import timedelta

import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from tamatar.auth.v1 import diagnostics_service_pb2 as d
from tamatar.auth.v1 import session_service_pb2 as s
from tamatar.auth.v1 import user_service_pb2 as u
from tamatar_auth import client
from tamatar_auth.client import ErrorReason, aio
from tamatar_auth.client.testing import FakeAuthServer
from tamatar_auth.client.testing.errors import RefusedError
from tests.support.calls import PASSWORD, ada, sign_in, validate, verify
from tests.support.rows import expire
from tests.support.session_watchers import End, watching

UNKNOWN_ID = "0190d9a0-0000-7000-8000-000000000000"


class Real:
    """Offers the fake's helpers, by calls of the real service."""

    def __init__(self, auth, database):
        self._auth, self._database = auth, database

    async def add_user(self, email, **fields):
        user = (await self._auth.users.CreateUser(ada(email=email, **fields))).user
        await verify(self._database, user)
        return user

    async def start_session(self, user):
        return (await self._auth.sessions.CreateSession(sign_in(email=user.email))).session_token

    async def revoke(self, token):
        await self._auth.sessions.RevokeSession(s.RevokeSessionRequest(session_token=token))

    async def revoke_all(self, user):
        request = s.RevokeUserSessionsRequest(user_id=user.user_id)
        await self._auth.sessions.RevokeUserSessions(request)

    async def deactivate(self, user):
        await self._auth.users.DeactivateUser(u.DeactivateUserRequest(user_id=user.user_id))

    async def delete(self, user):
        await self._auth.users.DeleteUser(u.DeleteUserRequest(user_id=user.user_id))

    async def expire(self, token):
        return await expire(self._database, token)


class Fake:
    """Offers the fake's helpers as coroutines."""

    def __init__(self, fake):
        self._fake = fake

    def __getattr__(self, name):
        async def do(*args, **named):
            return getattr(self._fake, name)(*args, **named)

        return do


class Story:
    """Makes calls, and records the results with names in place of ids and times."""

    def __init__(self, auth, backend):
        self.auth, self.backend = auth, backend
        self._names = {}
        self.results = []

    def know(self, name, *ids):
        self._names |= dict.fromkeys(ids, f"<{name}>")

    async def call(self, method, request):
        try:
            answer = await method(request)
        except client.AuthError as error:
            waits = error.retry_after is not None
            self.results.append(
                (type(error), error.status, error.reason_name, set(error.fields), waits)
            )
            return None
        self.results.append(self._plain(answer))
        return answer

    def _plain(self, value):
        if isinstance(value, Timestamp):
            return "<a moment>"
        if isinstance(value, Message):
            fields = {field.name: getattr(value, field.name) for field, _ in value.ListFields()}
            return {name: self._plain(each) for name, each in fields.items() if name != "etag"}
        if hasattr(value, "append"):
            return [self._plain(each) for each in value]
        return self._names.get(value, value)


async def play(story):
    """Use every feature of the fake."""
    auth, backend = story.auth, story.backend
    users, sessions = auth.users, auth.sessions
    bob = await backend.add_user("Bob@Example.com", username="bob", last_name="Lovelace")
    eve = await backend.add_user("eve@example.com")
    story.know("bob", bob.user_id)
    story.know("eve", eve.user_id)
    tokens = [await backend.start_session(each) for each in (bob, bob, bob, bob, eve, eve)]
    for n, token in enumerate(tokens):
        found = await sessions.ValidateSession(s.ValidateSessionRequest(session_token=token))
        story.know(f"session {n}", found.session.session_id)
        story.know(f"token {n}", token)
    first = (
        await sessions.ValidateSession(s.ValidateSessionRequest(session_token=tokens[0]))
    ).session

    for who in (
        {"user_id": bob.user_id},
        {"user_id": bob.user_id.upper()},
        {"email": "BOB@example.com"},
        {"username": "Bob"},
        {"user_id": UNKNOWN_ID},
        {"email": "nobody@example.com"},
        {"user_id": "bob"},
        {"email": ""},
        {},
    ):
        await story.call(users.GetUser, u.GetUserRequest(**who))
    for ids in (
        [eve.user_id, UNKNOWN_ID, bob.user_id, eve.user_id],
        [],
        ["x"],
        [bob.user_id] * 1001,
    ):
        await story.call(users.BatchGetUsers, u.BatchGetUsersRequest(user_ids=ids))
    for token in (tokens[0], "tms_unknown", "", "x" * 129, "a\tb"):
        await story.call(sessions.ValidateSession, s.ValidateSessionRequest(session_token=token))
    await story.call(sessions.GetSession, s.GetSessionRequest(session_id=first.session_id))
    await story.call(sessions.GetSession, s.GetSessionRequest(session_id=UNKNOWN_ID))

    async with watching(sessions) as watch:
        await backend.revoke(tokens[0])
        await watch.wait_for(End(bob.user_id, first.session_id))
        await backend.deactivate(eve)
        while not any(end.user_id == eve.user_id for end in watch.ends):
            await watch.read()
    tokens[1] = await backend.expire(tokens[1]) or tokens[1]
    everyone = s.BatchValidateSessionsRequest(session_tokens=[*tokens, "tms_unknown"])
    await story.call(sessions.BatchValidateSessions, everyone)
    for each in ([], ["", "x"], ["x"] * 1001):
        request = s.BatchValidateSessionsRequest(session_tokens=each)
        await story.call(sessions.BatchValidateSessions, request)
    for which in (
        {"session_id": first.session_id},
        {"session_token": tokens[2]},
        {"session_token": tokens[2]},
        {"session_token": "tms_unknown"},
        {"session_id": UNKNOWN_ID},
        {"session_id": "x"},
        {},
    ):
        await story.call(sessions.RevokeSession, s.RevokeSessionRequest(**which))
    for whose in (bob.user_id, bob.user_id, UNKNOWN_ID, "x"):
        request = s.RevokeUserSessionsRequest(user_id=whose)
        await story.call(sessions.RevokeUserSessions, request)
    await backend.delete(bob)
    await story.call(users.GetUser, u.GetUserRequest(user_id=bob.user_id))
    await story.call(sessions.BatchValidateSessions, everyone)
    return story.results


async def test_fake_gives_same_results_as_service(auth, database, fake):
    real = await play(Story(auth, Real(auth, database)))
    async with aio.connect(fake.address) as there:
        imitated = await play(Story(there, FakeUsers(fake)))

    for number, (expected, given) in enumerate(zip(real, imitated, strict=True)):
        assert given == expected, number


class FakeUsers(Fake):
    """Creates users as `Real` does."""

    async def add_user(self, email, **fields):
        return self._fake.add_user(email, **({"first_name": "Ada"} | fields))


async def test_call_that_fake_lacks_names_the_real_service(fake):
    async with aio.connect(fake.address) as auth:
        exported = auth.users.ExportUsers(u.ExportUsersRequest())
        with pytest.raises(client.AuthError, match=r"UNIMPLEMENTED: FakeAuthServer .*ExportUsers"):
            await exported.read()
        with pytest.raises(client.AuthError, match=r"DiagnosticsService/.*real_auth_server"):
            await auth.diagnostics.GetDatabaseInfo(d.GetDatabaseInfoRequest())


async def test_fake_user_with_password_signs_in(fake):
    fake.add_user("Ada@example.com", password=PASSWORD)

    async with aio.connect(fake.address) as auth:
        assert (await auth.sessions.CreateSession(sign_in())).session_token


async def test_fake_refuses_next_calls_as_ordered(fake):
    fake.add_user("ada@example.com", password=PASSWORD)
    reasons = [ErrorReason.TOO_MANY_ATTEMPTS, ErrorReason.STORAGE_TIMED_OUT]
    for reason in reasons:
        fake.fail_next("CreateSession", reason)

    async with aio.connect(fake.address) as auth:
        for reason in reasons:
            with pytest.raises(client.AuthError) as caught:
                await auth.sessions.CreateSession(sign_in())
            assert caught.value.reason == reason
        await auth.sessions.CreateSession(sign_in())


async def test_fake_revokes_oldest_of_101_sessions(fake):
    ada = fake.add_user("ada@example.com")
    first, second, *_ = [fake.start_session(ada) for _ in range(101)]

    async with aio.connect(fake.address) as auth:
        await validate(auth.sessions, second)
        with pytest.raises(client.SessionError) as caught:
            await validate(auth.sessions, first)

    assert caught.value.reason == ErrorReason.SESSION_REVOKED


def test_fake_second_user_of_address_is_refused(fake):
    fake.add_user("ada@example.com")

    with pytest.raises(RefusedError, match="EMAIL_TAKEN"):
        fake.add_user("ADA@example.com")


async def test_fake_can_break_streams_and_be_unavailable(fake):
    token = fake.start_session(fake.add_user("ada@example.com"))
    request = s.ValidateSessionRequest(session_token=token)
    async with aio.connect(fake.address) as auth:
        async with watching(auth.sessions) as watch:
            fake.break_streams()
            assert (await watch.refusal()).reason == "STREAM_INTERRUPTED"
        fake.is_available = False
        with pytest.raises(client.UnavailableError) as caught:
            await auth.sessions.ValidateSession(request)
        assert caught.value.reason == ErrorReason.STORAGE_UNAVAILABLE
        assert caught.value.retry_after
        fake.is_available = True
        async with watching(auth.sessions) as watch:
            await asyncio.to_thread(fake.stop)
            assert (await watch.refusal()).reason == "SERVICE_STOPPING"
        await asyncio.to_thread(fake.start)
        assert await auth.sessions.ValidateSession(request, wait_for_ready=True)


async def test_fake_stream_sends_keepalives():
    with FakeAuthServer(heartbeat_interval=0.01) as fake:
        async with aio.connect(fake.address) as auth, watching(auth.sessions) as watch:
            assert [await watch.read() for _ in range(3)] == [[], [], []]
    assert fake.calls == {"WatchSessions": 1}


def test_fake_session_can_be_as_short_as_wanted(fake):
    token = fake.start_session(fake.add_user("ada@example.com"), life=timedelta(0))

    with client.connect(fake.address) as auth, pytest.raises(client.SessionError) as caught:
        auth.sessions.ValidateSession(s.ValidateSessionRequest(session_token=token))

    assert caught.value.reason == ErrorReason.SESSION_EXPIRED
