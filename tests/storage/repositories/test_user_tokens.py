"""UserTokenRepository: every method, on a real database."""

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import func, select, update

from tamatar_auth.errors.users import UserTokenInvalid
from tamatar_auth.storage.repositories.user_tokens import TokenOwner, TokenPurpose
from tamatar_auth.storage.tables import user_tokens
from tests.support.rows import new_user

VERIFICATION, RESET = TokenPurpose.EMAIL_VERIFICATION, TokenPurpose.PASSWORD_RESET
DIGEST, NEWER = b"d" * 32, b"n" * 32
LIFETIME = timedelta(minutes=10)


@pytest.fixture
def do(database):
    """Run one method of the repository in a transaction of its own."""

    async def do(method, *arguments):
        async with database.transaction() as tx:
            return await getattr(tx.user_tokens, method)(*arguments)

    return do


@pytest.fixture
async def owner(database):
    async with database.transaction() as tx:
        user = await tx.users.add(new_user(email="ada@example.com"))
    return TokenOwner(user.id, user.email)


@pytest.fixture
def rows(database):
    async def rows():
        async with database.read() as db:
            return (await db.connection.execute(select(user_tokens))).all()

    return rows


@pytest.fixture
def age(database):
    """Change columns of every secret."""

    async def age(**columns):
        async with database.transaction() as tx:
            await tx.connection.execute(update(user_tokens).values(columns))

    return age


async def test_a_secret_lives_from_the_moment_of_its_transaction(do, owner, rows):
    expires = await do("issue", RESET, owner, DIGEST, LIFETIME)

    (row,) = await rows()
    assert (row.user_id, row.email) == owner
    assert (row.purpose, row.token_digest) == ("password_reset", DIGEST)
    assert row.expires_at == expires == row.created_at + LIFETIME


async def test_a_secret_tells_its_owner_until_it_is_taken(do, owner, rows):
    await do("issue", RESET, owner, DIGEST, LIFETIME)

    assert await do("get", RESET, DIGEST) == owner
    assert await do("get", RESET, DIGEST) == owner
    assert await do("consume", RESET, DIGEST) == owner
    for method in ("get", "consume"):
        with pytest.raises(UserTokenInvalid):
            await do(method, RESET, DIGEST)
    assert await rows() == []


async def test_of_takers_at_once_one_succeeds(do, owner):
    await do("issue", RESET, owner, DIGEST, LIFETIME)

    ends = await asyncio.gather(
        *(do("consume", RESET, DIGEST) for _ in range(10)), return_exceptions=True
    )

    assert ends.count(owner) == 1
    assert sum(isinstance(end, UserTokenInvalid) for end in ends) == 9


async def test_a_newer_secret_takes_the_place_of_the_older(do, owner, rows, age):
    await do("issue", RESET, owner, DIGEST, LIFETIME)
    await age(created_at=func.now() - LIFETIME, expires_at=func.now() - LIFETIME)
    moved = owner._replace(email="new@example.com")

    expires = await do("issue", RESET, moved, NEWER, LIFETIME)

    (row,) = await rows()
    assert (row.expires_at, row.created_at) == (expires, expires - LIFETIME)
    assert await do("get", RESET, NEWER) == moved
    with pytest.raises(UserTokenInvalid):
        await do("get", RESET, DIGEST)


async def test_secrets_of_two_purposes_live_beside_each_other(do, owner):
    await do("issue", RESET, owner, DIGEST, LIFETIME)
    await do("issue", VERIFICATION, owner, NEWER, LIFETIME)

    for purpose, other in ((RESET, NEWER), (VERIFICATION, DIGEST)):
        for method in ("get", "consume"):
            with pytest.raises(UserTokenInvalid):
                await do(method, purpose, other)
    assert await do("consume", RESET, DIGEST) == owner
    assert await do("consume", VERIFICATION, NEWER) == owner


@pytest.mark.parametrize("method", ["get", "consume"])
async def test_an_expired_secret_is_good_for_nothing(do, owner, age, method):
    await do("issue", RESET, owner, DIGEST, LIFETIME)
    await age(expires_at=func.now())

    with pytest.raises(UserTokenInvalid):
        await do(method, RESET, DIGEST)


async def test_every_secret_of_a_user_ends_and_no_other(database, do, owner):
    async with database.transaction() as tx:
        stranger = await tx.users.add(new_user())
    theirs = TokenOwner(stranger.id, stranger.email)
    await do("issue", RESET, owner, DIGEST, LIFETIME)
    await do("issue", VERIFICATION, owner, NEWER, LIFETIME)
    await do("issue", RESET, theirs, b"t" * 32, LIFETIME)

    await do("revoke", owner.user_id)

    for purpose, digest in ((RESET, DIGEST), (VERIFICATION, NEWER)):
        with pytest.raises(UserTokenInvalid):
            await do("get", purpose, digest)
    assert await do("get", RESET, b"t" * 32) == theirs
    await do("revoke", uuid4())  # nobody's: nothing to end


async def test_a_purge_takes_the_secrets_along(database, do, owner, rows):
    await do("issue", RESET, owner, DIGEST, LIFETIME)

    async with database.transaction() as tx:
        await tx.users.purge(owner.user_id)

    assert await rows() == []


async def test_what_is_not_issued_would_expire_as_what_is(database, owner, rows):
    async with database.transaction() as tx:
        would = await tx.user_tokens.expiry_of_new(LIFETIME)
        does = await tx.user_tokens.issue(RESET, owner, DIGEST, LIFETIME)

    assert would == does
