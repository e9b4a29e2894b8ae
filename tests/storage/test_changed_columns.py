"""Columns change their type while connections hold prepared statements: no call fails."""

import asyncio
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
import structlog
from sqlalchemy import text

from tamatar.auth.v1 import diagnostics_service_pb2 as diagnostics
from tamatar.auth.v1 import session_service_pb2 as sp
from tamatar.auth.v1 import user_service_pb2 as up
from tamatar.auth.v1.diagnostics_service_pb2_grpc import DiagnosticsServiceStub
from tamatar.auth.v1.portable_user_pb2 import PortableUser
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.jobs.seed import seed
from tamatar_auth.jobs.sweep import sweep
from tamatar_auth.server.app import run_service
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.engine import create_engine
from tamatar_auth.storage.session_validation.validator import LastActivityWriter
from tests.server.test_app import channel_to
from tests.support.calls import (
    NEW_PASSWORD,
    ada,
    change,
    confirm_change,
    email_change,
    refresh,
    sign_in,
    validate,
)
from tests.support.settings import changed

RUNS = 6
"""Runs after which psycopg has prepared each statement of a call."""

WIDER = (
    "ALTER TABLE users ALTER avatar_url TYPE varchar(%s)",
    "ALTER TABLE users ALTER deleted_by TYPE varchar(%s)",
    "ALTER TABLE user_profiles ALTER locale TYPE varchar(%s)",
    "ALTER TABLE sessions ALTER user_agent TYPE varchar(%s)",
)
"""Changes of columns, as a migration or an operator makes them."""


@pytest.fixture
async def world(settings, migrated_database):
    """A server with one connection, so that each statement is prepared soon."""
    mine = changed(settings.with_database(migrated_database), pool_size=1)
    async with run_service(mine) as service, channel_to(service) as channel:
        yield World(service, channel)


class World:
    """The calls of a server, each of which can run again and again."""

    def __init__(self, service, channel):
        self.service = service
        self.users = UserServiceStub(channel)
        self.sessions = SessionServiceStub(channel)
        self.diagnostics = DiagnosticsServiceStub(channel)
        self.calls = [
            *(self.read_users, self.change_users, self.use_sessions, self.list_sessions),
            *(self.use_passwords, self.use_one_time_tokens, self.move_users, self.diagnose),
        ]

    async def widen(self, width=3000):
        """Change columns over a connection of another client."""
        other = Database(create_engine(self.service.settings.database))
        for statement in WIDER:
            async with other.transaction() as tx:
                await tx.connection.execute(text(statement % width))
        await other.close()

    async def forget_statements(self):
        """Drop the prepared statements, as a pooler does that switches the server."""
        async with self.service.database.read() as db:
            raw = await db.connection.get_raw_connection()
            raw.driver_connection.pgconn.exec_(b"DEALLOCATE ALL")  # psycopg does not notice

    async def new_user(self):
        request = ada(email=f"{uuid4()}@example.com", email_verified=True)
        return (await self.users.CreateUser(request)).user

    async def read_users(self):
        user = await self.new_user()
        await self.users.GetUser(up.GetUserRequest(user_id=user.user_id, include_profile=True))
        await self.users.GetUser(up.GetUserRequest(email=user.email))
        await self.users.ListUsers(up.ListUsersRequest(page_size=1))
        await self.users.GetUserStats(up.GetUserStatsRequest())

    async def change_users(self):
        user = await self.new_user()
        key = user.user_id
        renamed = up.UpdateUserRequest(
            user_id=key, last_name="Byron", update_mask={"paths": ["last_name"]}
        )
        await self.users.UpdateUser(renamed)
        await self.users.DeactivateUser(up.DeactivateUserRequest(user_id=key))
        await self.users.ActivateUser(up.ActivateUserRequest(user_id=key))
        await self.users.DeleteUser(up.DeleteUserRequest(user_id=key))
        await self.users.RestoreUser(up.RestoreUserRequest(user_id=key))

    async def use_sessions(self):
        user = await self.new_user()
        signed_in = await self.sessions.CreateSession(sign_in(email=user.email))
        await validate(self.sessions, signed_in.session_token)
        refreshed = await refresh(self.sessions, signed_in.session_token)
        await refresh(self.sessions, signed_in.session_token)  # the previous one, in its grace
        tokens = [signed_in.session_token, refreshed.session_token]
        await self.sessions.BatchValidateSessions(
            sp.BatchValidateSessionsRequest(session_tokens=tokens)
        )
        await self.sessions.RevokeSession(sp.RevokeSessionRequest(session_token=tokens[1]))

    async def list_sessions(self):
        user = await self.new_user()
        session = (await self.sessions.CreateSession(sign_in(email=user.email))).session
        await self.sessions.GetSession(sp.GetSessionRequest(session_id=session.session_id))
        await self.sessions.ListSessions(sp.ListSessionsRequest(user_id=user.user_id))
        ended = sp.RevokeUserSessionsRequest(user_id=user.user_id)
        await self.sessions.RevokeUserSessions(ended)

    async def use_passwords(self):
        user = await self.new_user()
        await change(self.users, user)
        await self.sessions.CreateSession(sign_in(email=user.email, password=NEW_PASSWORD))

    async def use_one_time_tokens(self):
        user = await self.new_user()
        made = await self.users.CreateEmailVerification(
            up.CreateEmailVerificationRequest(user_id=user.user_id)
        )
        await self.users.VerifyEmail(up.VerifyEmailRequest(token=made.token))
        moved = await email_change(self.users, user, f"{uuid4()}@example.com")
        user = (await confirm_change(self.users, moved.token)).user
        made = await self.users.CreatePasswordReset(up.CreatePasswordResetRequest(email=user.email))
        await self.users.ResetPassword(
            up.ResetPasswordRequest(token=made.token, new_password=NEW_PASSWORD)
        )

    async def move_users(self):
        portable = PortableUser(email=f"{uuid4()}@example.com", first_name="Grace")
        request = up.ImportUsersRequest(users=[portable])
        (answer,) = [one async for one in self.users.ImportUsers(iter([request, request]))][:1]
        assert answer.results[0].outcome == up.IMPORT_OUTCOME_CREATED
        assert [page async for page in self.users.ExportUsers(up.ExportUsersRequest())]

    async def diagnose(self):
        await self.diagnostics.GetCaller(diagnostics.GetCallerRequest())
        await self.diagnostics.GetDatabaseInfo(diagnostics.GetDatabaseInfoRequest())


DISTURBANCES = [World.widen, World.forget_statements]


async def test_calls_after_changed_columns_succeed(world):
    for call in world.calls:
        for _ in range(RUNS):
            await call()
    await world.widen()

    for call in world.calls:
        await call()


async def test_calls_while_columns_change_succeed(settings, migrated_database):
    mine = changed(settings.with_database(migrated_database), pool_size=4)
    async with run_service(mine) as service, channel_to(service) as channel:
        world = World(service, channel)
        is_done = asyncio.Event()

        async def repeat(call):
            while not is_done.is_set():
                await call()

        running = [asyncio.create_task(repeat(call)) for call in world.calls]
        try:
            for width in range(3000, 3010):
                await asyncio.sleep(0.3)  # so that statements are prepared again
                await world.widen(width)
        finally:
            is_done.set()
            await asyncio.gather(*running)


@pytest.mark.parametrize("disturb", DISTURBANCES)
@pytest.mark.parametrize("scope", ["read", "statements"])
async def test_statement_outside_transaction_is_repeated(world, disturb, scope):
    user, database = await world.new_user(), world.service.database

    async def read():
        async with getattr(database, scope)() as db:
            return (await db.users.get(UUID(user.user_id))).email

    for _ in range(RUNS):
        await read()
    await disturb(world)

    assert await read() == user.email


@pytest.mark.parametrize("disturb", DISTURBANCES)
@pytest.mark.parametrize("name", ["flush", "sweep", "seed"])
async def test_job_after_disturbance_succeeds(world, disturb, name):
    service, activity = world.service, LastActivityWriter()
    database, passwords = service.database, service.components.passwords

    async def flush():
        activity.record(uuid4(), datetime.now(UTC))
        await activity.flush(database)

    jobs = {
        "flush": flush,
        "sweep": lambda: sweep(database, service.settings.retention),
        "seed": lambda: seed(database, passwords, service.settings),
    }
    for _ in range(RUNS):
        await jobs[name]()
    await disturb(world)
    with structlog.testing.capture_logs() as logs:
        await jobs[name]()

    assert "activity was not written" not in [entry["event"] for entry in logs]


async def test_calls_after_lost_prepared_statements_succeed(world):
    for call in world.calls:
        for _ in range(RUNS):
            await call()
        await world.forget_statements()
        await call()
