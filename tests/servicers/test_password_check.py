"""Right passwords whose hash is replaced while they are checked."""

import asyncio

import bcrypt
import pytest
from sqlalchemy import select, update

from tamatar.auth.v1 import user_service_pb2
from tamatar_auth.storage.repositories.login_attempts import FREE_ATTEMPTS
from tamatar_auth.storage.tables import users as users_table
from tests.support.calls import NEW_PASSWORD, PASSWORD, ada, sign_in, verify


@pytest.fixture
async def user(users, database):
    """Ada, whose password another program has hashed."""
    created = await users.CreateUser(ada())
    await verify(database, created.user)
    # Slow enough that calls at once have all read it before one of them replaces it.
    elsewhere = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(9)).decode()
    async with database.transaction() as tx:
        await tx.connection.execute(update(users_table).values(password_hash=elsewhere))
    return created.user


async def test_sign_ins_at_once_all_succeed_while_an_outdated_hash_is_replaced(
    sessions, user, database
):
    await asyncio.gather(*(sessions.CreateSession(sign_in()) for _ in range(FREE_ATTEMPTS)))

    async with database.read() as db:
        stored = await db.connection.execute(select(users_table.c.password_hash))
    assert stored.scalar_one().startswith("$hmac-sha384$")


async def test_a_change_of_password_succeeds_while_an_outdated_hash_is_replaced(
    users, sessions, user
):
    change = user_service_pb2.ChangePasswordRequest(
        user_id=user.user_id, current_password=PASSWORD, new_password=NEW_PASSWORD
    )

    # Whichever comes first: the sign-in may find the password changed, the change never.
    changed, _ = await asyncio.gather(
        users.ChangePassword(change), sessions.CreateSession(sign_in()), return_exceptions=True
    )

    assert isinstance(changed, user_service_pb2.ChangePasswordResponse)
    await sessions.CreateSession(sign_in(password=NEW_PASSWORD))
