"""Password checks while the stored hash is replaced."""

import asyncio
from uuid import UUID

import bcrypt
import pytest
from sqlalchemy import select, update

from tamatar.auth.v1 import user_service_pb2
from tamatar_auth.servicers import password_check
from tamatar_auth.storage.repositories.credentials import CredentialRepository
from tamatar_auth.storage.repositories.login_attempts import FREE_ATTEMPTS
from tamatar_auth.storage.tables import password_attempts
from tamatar_auth.storage.tables import users as users_table
from tests.support.calls import (
    INVALID_CREDENTIALS,
    NEW_PASSWORD,
    PASSWORD,
    ada,
    refusal,
    sign_in,
    verify,
)
from tests.support.rows import run


@pytest.fixture
async def user(users, database):
    """Ada, whose password was hashed by another system."""
    created = await users.CreateUser(ada())
    await verify(database, created.user)
    # Slow enough that concurrent calls read the hash before one of them replaces it.
    elsewhere = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(9)).decode()
    async with database.transaction() as tx:
        await tx.connection.execute(update(users_table).values(password_hash=elsewhere))
    return created.user


async def test_concurrent_sign_ins_with_outdated_hash_all_succeed(
    sessions, user, database, monkeypatch
):
    monkeypatch.setattr(password_check, "RESERVATION_WAIT", 60)
    await asyncio.gather(*(sessions.CreateSession(sign_in()) for _ in range(4 * FREE_ATTEMPTS)))

    async with database.read() as db:
        stored = await db.connection.execute(select(users_table.c.password_hash))
    assert stored.scalar_one().startswith("$hmac-sha384$")


async def test_sign_in_that_replaces_hash_keeps_etag(users, sessions, user):
    read = user_service_pb2.GetUserRequest(user_id=user.user_id)
    before = (await users.GetUser(read)).user

    await sessions.CreateSession(sign_in())

    after = (await users.GetUser(read)).user
    assert (after.etag, after.HasField("last_login_time")) == (before.etag, True)


async def test_sign_in_whose_hash_is_replaced_runs_again(sessions, user, database, monkeypatch):
    record = CredentialRepository.record_sign_in

    async def late(self, checked, **named):
        monkeypatch.setattr(CredentialRepository, "record_sign_in", record)
        again = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
        await run(database, update(users_table).values(password_hash=again))
        return await record(self, checked, **named)

    monkeypatch.setattr(CredentialRepository, "record_sign_in", late)

    await sessions.CreateSession(sign_in())

    async with database.read() as db:
        attempts = (await db.connection.execute(select(password_attempts.c.failures))).all()
        live = await db.sessions.recent(UUID(user.user_id), limit=10)
    assert (attempts, len(live)) == ([], 1)


async def test_sign_in_whose_password_is_changed_creates_no_session(
    sessions, user, database, monkeypatch
):
    record = CredentialRepository.record_sign_in

    async def late(self, checked, **named):
        other = bcrypt.hashpw(NEW_PASSWORD.encode(), bcrypt.gensalt(4)).decode()
        await run(database, update(users_table).values(password_hash=other))
        return await record(self, checked, **named)

    monkeypatch.setattr(CredentialRepository, "record_sign_in", late)

    assert await refusal(sessions.CreateSession(sign_in())) == INVALID_CREDENTIALS
    async with database.read() as db:
        assert not await db.sessions.recent(UUID(user.user_id), limit=10)


async def test_change_password_during_hash_replacement_succeeds(users, sessions, user):
    change = user_service_pb2.ChangePasswordRequest(
        user_id=user.user_id, current_password=PASSWORD, new_password=NEW_PASSWORD
    )

    # The sign-in may find the password changed; the change must succeed.
    changed, _ = await asyncio.gather(
        users.ChangePassword(change), sessions.CreateSession(sign_in()), return_exceptions=True
    )

    assert isinstance(changed, user_service_pb2.ChangePasswordResponse)
    await sessions.CreateSession(sign_in(password=NEW_PASSWORD))
