"""No event is recorded for a change whose COMMIT fails."""

import contextlib

import grpc
import pytest

from tamatar_auth.security.audit import Event
from tamatar_auth.storage.factor_tables import challenges
from tamatar_auth.storage.factor_tables import factors as factors_table
from tamatar_auth.storage.tables import sessions as sessions_table
from tamatar_auth.storage.tables import user_tokens
from tamatar_auth.storage.tables import users as users_table
from tests.security.test_audit import SCENES, Scene, recorded
from tests.support.calls import confirm_change, verify
from tests.support.failing_commits import commits_fail

READ_OR_REFUSED = {
    Event.SIGN_IN_FAILED,
    Event.PASSWORD_CHANGE_FAILED,
    Event.PASSWORD_RESET_FAILED,
    Event.EMAIL_VERIFICATION_FAILED,
    Event.EMAIL_CHANGE_FAILED,
    Event.FACTOR_CONFIRM_FAILED,
    Event.PASSKEY_REGISTRATION_FAILED,
    Event.SESSION_STEP_UP_FAILED,
    Event.USERS_EXPORTED,
}
"""The events of calls that commit nothing."""

TABLES = (users_table, sessions_table, user_tokens, factors_table, challenges)

COMMITTED = [event for event in SCENES if event not in READ_OR_REFUSED]


@pytest.fixture
async def scene(users, sessions, factors, database):
    """Ada, who can sign in."""
    scene = Scene(users, sessions, factors, database)
    await verify(database, await scene.create())
    return scene


async def failed(call):
    """Await a call that fails; the scene of a refused call has read the refusal."""
    with contextlib.suppress(grpc.RpcError):
        await call


@pytest.mark.parametrize("event", COMMITTED, ids=lambda event: event.value)
async def test_change_whose_commit_fails_records_no_event(scene, event):
    play = SCENES[event](scene)
    await anext(play)

    async with commits_fail(scene.database, *TABLES):
        assert await recorded(failed(anext(play, None))) == []


async def test_email_change_whose_commit_fails_records_no_event(scene):
    token = await scene.ask_email_change()

    async with commits_fail(scene.database, users_table, user_tokens):
        assert await recorded(failed(confirm_change(scene.users, token))) == []
