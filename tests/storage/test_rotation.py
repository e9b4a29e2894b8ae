"""RotationRepository: every method, on a real database."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from tamatar_auth.errors.sessions import (
    SessionExpired,
    SessionIdle,
    SessionRevoked,
    SessionUnknown,
    UserInactive,
)
from tamatar_auth.errors.storage import TransactionConflict
from tamatar_auth.storage.rotation import NewToken
from tamatar_auth.storage.sessions import ROTATION_GRACE
from tamatar_auth.storage.tables import sessions
from tests.rows import new_session, new_user

LIFETIME = timedelta(days=7)
SECOND = timedelta(seconds=1)
LIMIT = timedelta(minutes=30)

FIRST = b"1" * 32
NEXT = NewToken(b"2" * 32, b"n" * 32)
LATER = NewToken(b"3" * 32, b"m" * 32)


@pytest.fixture
def do(database):
    """Run one method of the repository in a transaction of its own."""

    async def do(method, *arguments, **named):
        async with database.transaction() as tx:
            return await getattr(tx.rotations, method)(*arguments, **named)

    return do


@pytest.fixture
async def user(database):
    async with database.transaction() as tx:
        return await tx.users.add(new_user(password_hash="a hash"))


@pytest.fixture
async def session(database, user):
    async with database.transaction() as tx:
        return await tx.sessions.add(new_session(user.id, token_digest=FIRST), LIFETIME)


@pytest.fixture
def age(database, session):
    """Change columns of the session."""

    async def age(**columns):
        async with database.transaction() as tx:
            await tx.connection.execute(update(sessions).values(columns))

    return age


@pytest.fixture
def end(database, session, age):
    """Let the session or its user come to an end, in one of several ways."""

    async def end(how):
        async with database.transaction() as tx:
            if how == "revoked":
                await tx.sessions.revoke(session.id)
            elif how == "deactivated":
                await tx.users.set_active(session.user_id, active=False)
            elif how == "deleted":
                await tx.users.delete(session.user_id, deleted_by=None)
        if how == "expired":
            await age(created_at=func.now() - LIFETIME, expires_at=func.now() - SECOND)
        if how == "idle":
            await age(last_activity_at=func.now() - LIMIT)

    return end


ENDS = {
    "revoked": SessionRevoked,
    "expired": SessionExpired,
    "idle": SessionIdle,
    "deactivated": UserInactive,
    "deleted": UserInactive,
}


@pytest.fixture
def stored(database):
    async def stored():
        async with database.read() as db:
            return (await db.connection.execute(select(sessions))).one()

    return stored


async def test_a_token_is_replaced_and_the_one_before_is_remembered(do, session, user, stored):
    valid = await do("rotate", FIRST, NEXT)

    assert valid.user == user
    assert valid.session == session._replace(last_activity_at=valid.session.last_activity_at)
    assert valid.session.last_activity_at > session.last_activity_at
    row = await stored()
    assert (row.previous_digest, row.token_digest) == (FIRST, NEXT.digest)
    assert row.rotation_nonce == NEXT.nonce
    assert row.rotated_at == row.last_activity_at


async def test_only_the_present_token_is_replaced(do, session, stored):
    assert await do("rotate", b"?" * 32, NEXT) is None
    await do("rotate", FIRST, NEXT)
    before = await stored()

    assert await do("rotate", FIRST, LATER) is None
    assert await stored() == before


async def test_of_replacements_at_once_one_succeeds(do, session, stored):
    tokens = [NewToken(bytes([n]) * 32, bytes([n]) * 32) for n in range(10)]

    ends = await asyncio.gather(*(do("rotate", FIRST, token) for token in tokens))

    (winner,) = [token for token, end in zip(tokens, ends, strict=True) if end]
    assert (await stored()).token_digest == winner.digest


async def test_other_sessions_keep_their_tokens(database, do, session, user):
    other = new_session(user.id)
    async with database.transaction() as tx:
        before = await tx.sessions.add(other, LIFETIME)

    await do("rotate", FIRST, NEXT)

    async with database.transaction() as tx:
        assert (await tx.sessions.validate(other.token_digest)).session == before


@pytest.mark.parametrize("how", ENDS)
async def test_the_token_of_what_ended_is_not_replaced(do, end, stored, how):
    await end(how)

    assert await do("rotate", FIRST, NEXT, idle_limit=LIMIT) is None

    assert (await stored()).token_digest == FIRST
    with pytest.raises(ENDS[how]):
        await do("find_rotated", FIRST, idle_limit=LIMIT)


async def test_a_session_may_rest_where_there_is_no_limit(do, end):
    await end("idle")

    assert await do("rotate", FIRST, NEXT)


async def test_a_replaced_token_is_recognised_in_its_grace_and_after(do, session, user, age):
    valid = await do("rotate", FIRST, NEXT)

    found = await do("find_rotated", FIRST)
    assert (found.valid, found.is_in_grace, found.nonce) == (valid, True, NEXT.nonce)

    await age(rotated_at=func.now() - ROTATION_GRACE + SECOND)
    assert (await do("find_rotated", FIRST)).is_in_grace
    await age(rotated_at=func.now() - ROTATION_GRACE)
    assert not (await do("find_rotated", FIRST)).is_in_grace


@pytest.mark.parametrize("how", ENDS)
async def test_a_replaced_token_of_what_ended_says_so(do, end, session, how):
    await do("rotate", FIRST, NEXT)
    await end(how)

    with pytest.raises(ENDS[how]):
        await do("find_rotated", FIRST, idle_limit=LIMIT)


async def test_only_the_token_before_the_present_one_is_recognised(do, session):
    await do("rotate", FIRST, NEXT)
    await do("rotate", NEXT.digest, LATER)

    for unknown in (FIRST, b"?" * 32):
        with pytest.raises(SessionUnknown):
            await do("find_rotated", unknown)
    assert (await do("find_rotated", NEXT.digest)).nonce == LATER.nonce


async def test_a_present_token_that_was_not_replaced_is_to_be_tried_again(do, session):
    with pytest.raises(TransactionConflict):
        await do("find_rotated", FIRST)


async def test_nothing_that_is_handed_out_shows_a_digest_or_a_nonce(do, session):
    valid = await do("rotate", FIRST, NEXT)
    found = await do("find_rotated", FIRST)

    for secret in (FIRST, NEXT.digest, NEXT.nonce):
        assert repr(secret) not in repr([valid, found, NEXT])
