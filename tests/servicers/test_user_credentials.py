"""Passwords over a real channel: changed, refused if weak, and rehashed."""

import asyncio
from uuid import uuid4

import bcrypt
import pytest
from grpc import StatusCode
from sqlalchemy import select, text, update

from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar_auth.server.app import run_service
from tamatar_auth.storage.tables import users as users_table
from tests.server.test_app import channel_to
from tests.support.calls import (
    INVALID_CREDENTIALS,
    NEW_PASSWORD,
    PASSWORD,
    ada,
    change,
    password_reset,
    refusal,
    refused,
    reset,
    sign_in,
    validate,
)
from tests.support.rows import run


async def stored_hash(database):
    return (await run(database, select(users_table.c.password_hash))).scalar_one()


async def test_changed_password_replaces_the_old_one(users, sessions, user):
    await change(users, user)

    assert await refusal(sessions.CreateSession(sign_in())) == INVALID_CREDENTIALS
    await sessions.CreateSession(sign_in(password=NEW_PASSWORD))


async def test_changed_password_ends_other_sessions(users, sessions, user):
    started = [await sessions.CreateSession(sign_in()) for _ in range(3)]
    kept = started[1]

    answer = await change(users, user, keep_session_id=kept.session.session_id)

    assert answer.revoked_session_count == 2
    await validate(sessions, kept.session_token)
    for ended in (started[0], started[2]):
        assert await refusal(validate(sessions, ended.session_token)) == (
            StatusCode.UNAUTHENTICATED,
            "SESSION_REVOKED",
        )


async def test_changed_password_ends_sessions_on_other_server(users, sessions, user, settings):
    started = await sessions.CreateSession(sign_in())
    async with run_service(settings) as other, channel_to(other) as channel:
        elsewhere = SessionServiceStub(channel)
        await validate(elsewhere, started.session_token)
        await change(users, user)
        assert await refusal(validate(elsewhere, started.session_token)) == (
            StatusCode.UNAUTHENTICATED,
            "SESSION_REVOKED",
        )


async def test_change_password_needs_the_right_one(users, user):
    assert await refusal(change(users, user, current_password="wrong")) == INVALID_CREDENTIALS
    unknown = change(users, user, user_id=str(uuid4()))
    assert await refusal(unknown) == INVALID_CREDENTIALS


# A password that any test sends is a secret in the output of all: none of these is an address or a
# name that commands print.
@pytest.mark.parametrize(
    ("password", "description"),
    [
        ("short", "must have at least 12 characters"),
        ("1qaz2wsx3edc", "must not be a common password"),
        ("aDa@eXample.com", "must not be mostly the user's own address or name"),
        ("passwordpassword", "must not be mostly a repetition"),
        ("123456789012", "must not be mostly sequences such as 12345 or qwerty"),
        ("tAmatar aUth 1", "must not be mostly the name of the service"),
    ],
)
async def test_weak_password_is_refused_with_reason(users, user, password, description):
    said = await refused(change(users, user, new_password=password))
    assert said.fields == {"new_password": description}

    created = users.CreateUser(ada(email="ada@example.com", password=password))
    assert (await refused(created)).fields == {"password": description}

    token = (await password_reset(users)).token
    assert (await refused(reset(users, token, password))).fields == {"new_password": description}
    await reset(users, token)  # the refused reset did not consume the token


async def test_two_concurrent_password_changes_one_succeeds(users, user):
    outcomes = await asyncio.gather(
        change(users, user, new_password="first horse battery"),
        change(users, user, new_password="second horse battery"),
        return_exceptions=True,
    )

    assert sorted(isinstance(outcome, Exception) for outcome in outcomes) == [False, True]


# Hashes of other systems and keys


async def test_foreign_hash_is_replaced_at_next_sign_in(sessions, user, database):
    elsewhere = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(5)).decode()
    await run(database, update(users_table).values(password_hash=elsewhere))

    await refused(sessions.CreateSession(sign_in(password="wrong")))
    assert await stored_hash(database) == elsewhere
    await sessions.CreateSession(sign_in())

    assert (await stored_hash(database)).startswith("$hmac-sha384$")
    await sessions.CreateSession(sign_in())


async def test_rehash_never_overwrites_a_changed_password(users, sessions, user, database):
    elsewhere = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(8)).decode()
    await run(database, update(users_table).values(password_hash=elsewhere))

    outcomes = await asyncio.gather(
        change(users, user), *(sessions.CreateSession(sign_in()) for _ in range(3)),
        return_exceptions=True,
    )  # fmt: skip

    changed = not isinstance(outcomes[0], Exception)
    await run(database, text("DELETE FROM password_attempts"))
    await sessions.CreateSession(sign_in(password=NEW_PASSWORD if changed else PASSWORD))


@pytest.mark.parametrize(
    "stored", ["corrupt", "$2b$04$short", "$hmac-sha384$gone$2b$04$" + "a" * 53]
)
async def test_corrupt_hash_is_refused_like_wrong_password(sessions, user, database, stored):
    await run(database, update(users_table).values(password_hash=stored))

    assert await refusal(sessions.CreateSession(sign_in())) == INVALID_CREDENTIALS
