"""A call is one transaction: if its COMMIT fails, nothing has changed and no event is recorded."""

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from grpc import StatusCode
from sqlalchemy import select

from tamatar.auth.v1 import session_service_pb2 as session_pb
from tamatar.auth.v1 import user_service_pb2 as pb
from tamatar_auth.storage.factor_tables import factors as factors_table
from tamatar_auth.storage.factor_tables import recovery_codes as codes_table
from tamatar_auth.storage.tables import (
    password_attempts,
    replaced_tokens,
    user_profiles,
    user_tokens,
)
from tamatar_auth.storage.tables import sessions as sessions_table
from tamatar_auth.storage.tables import users as users_table
from tests.support.calls import (
    ada,
    change,
    confirm_change,
    email_change,
    password_reset,
    refusal,
    reset,
    sign_in,
    verification,
    verify_email,
)
from tests.support.factors import recovery_codes
from tests.support.failing_commits import commits_fail

TABLES = (
    *(users_table, user_profiles, sessions_table, replaced_tokens, user_tokens),
    *(factors_table, codes_table),
)
"""The tables that a failed call must leave unchanged. Attempts are counted apart."""


class Scene:
    """Ada with a session and all kinds of one-time tokens."""

    def __init__(self, users, sessions, factors, user):
        self.users, self.sessions, self.factors, self.user = users, sessions, factors, user
        self.session_id = self.verification = self.reset = self.change = ""
        self.step_up = session_pb.CompleteStepUpRequest()

    async def prepare(self):
        started = await self.sessions.CreateSession(sign_in())
        self.session_id, token = started.session.session_id, started.session_token
        begun = await self.sessions.BeginStepUp(session_pb.BeginStepUpRequest(session_token=token))
        self.step_up.session_token = token
        self.step_up.challenge_token = begun.challenge.challenge_token
        (self.step_up.recovery_code, *_) = await recovery_codes(self.factors, self.user)
        self.verification = (await verification(self.users, self.user)).token
        self.reset = (await password_reset(self.users)).token
        self.change = (await email_change(self.users, self.user)).token

    def of_user(self, method, **given):
        request = getattr(pb, f"{method}Request")(user_id=self.user.user_id, **given)
        return getattr(self.users, method)(request)


@pytest.fixture
async def scene(users, sessions, factors, user):
    scene = Scene(users, sessions, factors, user)
    await scene.prepare()
    return scene


def create_user(scene):
    return scene.users.CreateUser(ada(email="other@example.com"))


def create_session(scene):
    return scene.sessions.CreateSession(sign_in())


def change_password(scene):
    return change(scene.users, scene.user)


def reset_password(scene):
    return reset(scene.users, scene.reset)


def verify(scene):
    return verify_email(scene.users, scene.verification)


def change_email(scene):
    return confirm_change(scene.users, scene.change)


def update(scene):
    mask = FieldMask(paths=["email", "profile.bio"])
    return scene.of_user(
        "UpdateUser", email="new@example.com", profile={"bio": "new"}, update_mask=mask
    )


def deactivate(scene):
    return scene.of_user("DeactivateUser")


def delete(scene):
    return scene.of_user("DeleteUser")


def purge(scene):
    return scene.of_user("PurgeUser")


def revoke_session(scene):
    request = session_pb.RevokeSessionRequest(session_id=scene.session_id)
    return scene.sessions.RevokeSession(request)


def revoke_sessions(scene):
    request = session_pb.RevokeUserSessionsRequest(user_id=scene.user.user_id)
    return scene.sessions.RevokeUserSessions(request)


def step_up(scene):
    return scene.sessions.CompleteStepUp(scene.step_up)


CHANGED_TABLES = {
    create_user: (users_table, user_profiles),
    create_session: (users_table, sessions_table),
    change_password: (users_table, sessions_table, user_tokens),
    reset_password: (users_table, sessions_table, user_tokens, password_attempts),
    verify: (users_table, user_tokens),
    change_email: (users_table, user_tokens),
    update: (users_table, user_profiles, user_tokens),
    deactivate: (users_table, sessions_table, user_tokens),
    delete: (users_table, sessions_table, user_tokens),
    purge: (users_table, user_profiles, sessions_table, user_tokens),
    revoke_session: (sessions_table,),
    revoke_sessions: (sessions_table,),
    step_up: (sessions_table, replaced_tokens, factors_table, codes_table),
}
"""The tables that each call changes in its one transaction."""


async def rows(database):
    """Return all rows of the tables."""
    async with database.snapshot() as db:
        return [(await db.connection.execute(select(table))).all() for table in TABLES]


@pytest.mark.parametrize(
    ("call", "table"),
    [(call, table) for call, tables in CHANGED_TABLES.items() for table in tables],
    ids=lambda it: getattr(it, "__name__", None) or it.name,
)
async def test_call_whose_commit_fails_changes_nothing(scene, database, call, table):
    if table is password_attempts:
        await refusal(scene.sessions.CreateSession(sign_in(password="x")))
    before = await rows(database)

    async with commits_fail(database, table):
        assert await refusal(call(scene)) == (
            StatusCode.UNAVAILABLE,
            "STORAGE_UNAVAILABLE",
        )

    assert await rows(database) == before
