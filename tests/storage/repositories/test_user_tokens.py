"""UserTokenRepository: every method, on a real database."""

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError

from tamatar_auth.errors.users import UserTokenInvalid
from tamatar_auth.storage.repositories.user_tokens import EmailChange, TokenOwner, TokenPurpose
from tamatar_auth.storage.tables import password_attempts, user_tokens
from tests.support.rows import new_user

VERIFICATION, RESET = TokenPurpose.EMAIL_VERIFICATION, TokenPurpose.PASSWORD_RESET
CHANGE = TokenPurpose.EMAIL_CHANGE
DIGEST, NEWER, STAND_IN = b"d" * 32, b"n" * 32, b"s" * 32
LIFETIME = timedelta(minutes=10)


@pytest.fixture
def do(database):
    """Run one method of the repository in a transaction of its own."""

    async def do(method, *arguments, **named):
        async with database.transaction() as tx:
            return await getattr(tx.user_tokens, method)(*arguments, **named)

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
    """Change columns of every user token."""

    async def age(**columns):
        async with database.transaction() as tx:
            await tx.connection.execute(update(user_tokens).values(columns))

    return age


async def stand_ins(database):
    columns = password_attempts.c["account", "user_id", "failures"]
    async with database.read() as db:
        return (await db.connection.execute(select(*columns))).all()


async def test_issue_sets_expiry_from_time_of_transaction(do, owner, rows):
    expires = await do("issue", RESET, owner, DIGEST, LIFETIME)

    (row,) = await rows()
    assert (row.user_id, row.email) == owner
    assert (row.purpose, row.token_digest) == ("password_reset", DIGEST)
    assert row.expires_at == expires == row.created_at + LIFETIME


async def test_get_returns_owner_until_token_is_consumed(do, owner, rows):
    await do("issue", RESET, owner, DIGEST, LIFETIME)

    assert await do("get", RESET, DIGEST) == owner
    assert await do("get", RESET, DIGEST) == owner
    assert await do("consume", RESET, DIGEST) == owner
    for method in ("get", "consume"):
        with pytest.raises(UserTokenInvalid):
            await do(method, RESET, DIGEST)
    assert await rows() == []


async def test_concurrent_consumers_one_succeeds(do, owner):
    await do("issue", RESET, owner, DIGEST, LIFETIME)

    ends = await asyncio.gather(
        *(do("consume", RESET, DIGEST) for _ in range(10)), return_exceptions=True
    )

    assert ends.count(owner) == 1
    assert sum(isinstance(end, UserTokenInvalid) for end in ends) == 9


async def test_issue_replaces_older_token_of_purpose(do, owner, rows, age):
    await do("issue", RESET, owner, DIGEST, LIFETIME)
    await age(created_at=func.now() - LIFETIME, expires_at=func.now() - LIFETIME)
    moved = owner._replace(email="new@example.com")

    expires = await do("issue", RESET, moved, NEWER, LIFETIME)

    (row,) = await rows()
    assert (row.expires_at, row.created_at) == (expires, expires - LIFETIME)
    assert await do("get", RESET, NEWER) == moved
    with pytest.raises(UserTokenInvalid):
        await do("get", RESET, DIGEST)


async def test_issue_change_replaces_older_token_and_address(do, owner, rows):
    older = EmailChange(owner, "older@example.com")
    newer = EmailChange(owner._replace(email="moved@example.com"), "newer@example.com")
    await do("issue_change", older, DIGEST, LIFETIME)

    expires = await do("issue_change", newer, NEWER, LIFETIME)

    (row,) = await rows()
    assert row.expires_at == expires == row.created_at + LIFETIME
    assert await do("get_change", NEWER) == newer
    assert await do("consume", CHANGE, NEWER) == newer.owner
    for digest in (DIGEST, NEWER):
        with pytest.raises(UserTokenInvalid):
            await do("get_change", digest)


@pytest.mark.parametrize("purpose", [RESET, CHANGE])
async def test_only_email_change_has_new_email(do, owner, age, purpose):
    if purpose is RESET:
        await do("issue", RESET, owner, DIGEST, LIFETIME)
    else:
        await do("issue_change", EmailChange(owner, "new@example.com"), DIGEST, LIFETIME)

    with pytest.raises(IntegrityError, match="ck_user_tokens_new_email_of_change"):
        await age(new_email="new@example.com" if purpose is RESET else None)


async def test_tokens_of_two_purposes_are_independent(do, owner):
    await do("issue", RESET, owner, DIGEST, LIFETIME)
    await do("issue", VERIFICATION, owner, NEWER, LIFETIME)

    for purpose, other in ((RESET, NEWER), (VERIFICATION, DIGEST)):
        for method in ("get", "consume"):
            with pytest.raises(UserTokenInvalid):
                await do(method, purpose, other)
    assert await do("consume", RESET, DIGEST) == owner
    assert await do("consume", VERIFICATION, NEWER) == owner


@pytest.mark.parametrize("method", ["get", "consume"])
async def test_expired_token_is_refused(do, owner, age, method):
    await do("issue", RESET, owner, DIGEST, LIFETIME)
    await age(expires_at=func.now())

    with pytest.raises(UserTokenInvalid):
        await do(method, RESET, DIGEST)


async def test_revoke_ends_tokens_of_one_user_only(database, do, owner):
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
    await do("revoke", uuid4())  # a user without tokens


async def test_purge_deletes_tokens_of_user(database, do, owner, rows):
    await do("issue", RESET, owner, DIGEST, LIFETIME)

    async with database.transaction() as tx:
        await tx.users.purge(owner.user_id)

    assert await rows() == []


async def test_issue_reset_replaces_older_token_of_address(do, database, owner, rows):
    await do("issue", RESET, owner, DIGEST, LIFETIME)

    user_id, expires = await do("issue_reset", owner.email, NEWER, LIFETIME, stand_in=STAND_IN)

    (row,) = await rows()
    assert (user_id, row.token_digest, row.email) == (owner.user_id, NEWER, owner.email)
    assert row.expires_at == expires == row.created_at + LIFETIME
    assert await stand_ins(database) == []


@pytest.mark.parametrize("kind", ["unknown", "inactive", "deleted"])
async def test_issue_reset_without_active_user_stores_a_stand_in(do, database, owner, rows, kind):
    async with database.transaction() as tx:
        if kind == "inactive":
            await tx.users.set_active(owner.user_id, active=False)
        if kind == "deleted":
            await tx.users.delete(owner.user_id, deleted_by=None)
    email = "unknown@example.com" if kind == "unknown" else owner.email

    for _ in range(2):
        user_id, expires = await do("issue_reset", email, DIGEST, LIFETIME, stand_in=STAND_IN)

    assert (user_id, await rows()) == (None, [])
    assert expires
    assert await stand_ins(database) == [(STAND_IN, None, 0)]
