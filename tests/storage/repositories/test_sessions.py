"""SessionRepository: every method, on a real database."""

from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import func, update

from tamatar_auth.errors.sessions import (
    SessionExpired,
    SessionIdle,
    SessionNotFound,
    SessionRevoked,
    SessionUnknown,
    UserInactive,
)
from tamatar_auth.servicers.messages import session_message, user_message, validated_message
from tamatar_auth.storage.repositories import KeysetCursor
from tamatar_auth.storage.repositories.session_state import ROTATION_GRACE
from tamatar_auth.storage.repositories.sessions import SESSION_COLUMNS
from tamatar_auth.storage.repositories.token_keys import TokenKey
from tamatar_auth.storage.session_validation.statement import IS_STALE
from tamatar_auth.storage.tables import sessions
from tests.support.rows import new_session, new_user

LIFETIME = timedelta(days=7)
SECOND = timedelta(seconds=1)


@pytest.fixture
def do(database):
    """Run one method of the repository in a transaction of its own."""

    async def do(method, *arguments, **named):
        async with database.transaction() as tx:
            return await getattr(tx.sessions, method)(*arguments, **named)

    return do


@pytest.fixture
def validate(validator):
    """Validate one token."""

    def validate(digest, *, idle_limit=None):
        return validator(idle_limit).validate(TokenKey(digest))

    return validate


@pytest.fixture
async def user(database):
    async with database.transaction() as tx:
        return await tx.users.add(new_user(password_hash="a hash"))


@pytest.fixture
def age(database):
    """Change columns of a session."""

    async def age(session, **columns):
        async with database.transaction() as tx:
            await tx.connection.execute(
                update(sessions).where(sessions.c.id == session.id).values(columns)
            )

    return age


@pytest.fixture
def expire(age):
    async def expire(session):
        await age(session, created_at=func.now() - LIFETIME, expires_at=func.now() - SECOND)

    return expire


class TestValidate:
    """Tokens that are validated."""

    async def test_validate_returns_session_and_user_of_token(self, do, user, validate):
        new = new_session(user.id)
        session = await do("add", new)
        await do("add", new_session(user.id))

        validated = validated_message(await validate(new.token_digest))

        assert validated.session == session_message(session)
        assert validated.user == user_message(user)

    async def test_validate_of_unknown_token_raises(self, do, validate):
        with pytest.raises(SessionUnknown):
            await validate(b"?" * 32)

    async def test_validate_reports_stale_activity_after_5_minutes(self, do, user, age, validate):
        new = new_session(user.id)
        session = await do("add", new)
        for seconds, is_stale in ((290, False), (300, True)):
            await age(session, last_activity_at=func.now() - seconds * SECOND)
            assert (await validate(new.token_digest))[IS_STALE] is is_stale

    async def test_validate_of_idle_session_raises_if_limited(self, do, user, age, validate):
        new = new_session(user.id)
        session = await do("add", new)
        limit = timedelta(minutes=30)
        await age(session, last_activity_at=func.now() - limit + 10 * SECOND)
        assert await validate(new.token_digest, idle_limit=limit)

        await age(session, last_activity_at=func.now() - limit)
        assert await validate(new.token_digest)
        with pytest.raises(SessionIdle):
            await validate(new.token_digest, idle_limit=limit)

    async def test_validate_of_replaced_token_raises_after_grace(self, do, user, age, validate):
        new = new_session(user.id)
        session = await do("add", new)
        for key, moment in ((b"1" * 32, func.now() - ROTATION_GRACE), (b"2" * 32, None)):
            await age(
                session, token_digest=key, previous_digest=new.token_digest, rotated_at=moment
            )
            with pytest.raises(SessionUnknown):
                await validate(new.token_digest)

        await age(session, rotated_at=func.now() - ROTATION_GRACE + 8 * SECOND)
        assert await validate(new.token_digest)

    async def test_validate_of_expired_session_raises(self, do, user, expire, validate):
        new = new_session(user.id)
        await expire(await do("add", new))

        with pytest.raises(SessionExpired):
            await validate(new.token_digest)

    async def test_validate_of_revoked_session_raises_also_if_expired(
        self, do, user, expire, validate
    ):
        new = new_session(user.id)
        session = await do("add", new)
        await do("revoke", session.id)
        with pytest.raises(SessionRevoked):
            await validate(new.token_digest)

        await expire(session)
        with pytest.raises(SessionRevoked):
            await validate(new.token_digest)

    @pytest.mark.parametrize("how", ["deleted", "inactive"])
    async def test_validate_of_gone_user_raises(self, database, do, user, how, validate):
        new = new_session(user.id)
        await do("add", new)
        async with database.transaction() as tx:
            if how == "deleted":
                await tx.users.delete(user.id, deleted_by=None)
            else:
                await tx.users.set_active(user.id, active=False)

        with pytest.raises(UserInactive):
            await validate(new.token_digest)


class TestRevoke:
    """Sessions that are revoked."""

    async def test_revoke_excess_ends_oldest_live_sessions(self, database, do, user, expire):
        async with database.transaction() as tx:
            stranger = await tx.users.add(new_user())
        theirs = await do("add", new_session(stranger.id))
        first, second, third, ended, expired = [
            await do("add", new_session(user.id)) for _ in range(5)
        ]
        ended = await do("revoke", ended.id)
        await expire(expired)

        assert await do("revoke_excess", user.id, 3) == 0
        assert await do("revoke_excess", user.id, 1) == 2

        assert (await do("get", first.id)).revoked_at == (await do("get", second.id)).revoked_at
        for kept in (third, ended, theirs):
            assert await do("get", kept.id) == kept
        assert (await do("get", expired.id)).revoked_at is None

    async def test_revoke_excess_at_equal_times_ends_smallest_ids(self, database, do, user):
        async with database.transaction() as tx:
            ids = [(await tx.sessions.add(new_session(user.id))).id for _ in range(4)]

        assert await do("revoke_excess", user.id, 2) == 2

        assert {row.id for row in await do("recent", user.id, limit=10)} == set(sorted(ids)[2:])

    @pytest.mark.parametrize("by", ["id", "token"])
    async def test_revoke_of_revoked_session_keeps_its_time(self, do, user, by):
        new = new_session(user.id)
        await do("add", new)
        how = ("revoke", new.id) if by == "id" else ("revoke_by_token", TokenKey(new.token_digest))

        ended = await do(*how)
        again = await do(*how)

        assert ended.revoked_at is not None
        assert again == ended

    async def test_revoke_of_user_ends_live_sessions_except_one(self, database, do, user, expire):
        async with database.transaction() as tx:
            stranger = await tx.users.add(new_user())
        theirs = await do("add", new_session(stranger.id))
        kept, first, second, ended, expired = [
            await do("add", new_session(user.id)) for _ in range(5)
        ]
        ended = await do("revoke", ended.id)
        await expire(expired)

        assert await do("revoke_of_user", user.id, except_id=kept.id) == 2

        assert (await do("get", first.id)).revoked_at == (await do("get", second.id)).revoked_at
        assert await do("get", kept.id) == kept
        assert await do("get", ended.id) == ended
        assert await do("get", theirs.id) == theirs
        assert await do("revoke_of_user", user.id) == 1
        assert await do("revoke_of_user", user.id) == 0


class TestRead:
    """Sessions that are added, read and touched."""

    async def test_session_add_uses_time_of_transaction(self, do, user):
        new = new_session(user.id, user_agent="grpc", ip_address="2001:db8::1")

        session = await do("add", new)

        assert (session.id, session.user_id) == (new.id, user.id)
        assert session.expires_at == new.expires_at
        assert session.last_activity_at == session.created_at
        assert session.revoked_at is None
        assert (session.user_agent, str(session.ip_address)) == ("grpc", "2001:db8::1")

    async def test_touch_writes_only_stale_activity(self, do, user, age):
        several = [await do("add", new_session(user.id)) for _ in range(3)]
        used, fresh, other = several
        for session in (used, other):
            await age(session, last_activity_at=func.now() - timedelta(minutes=5))

        expiry_times = {session.id: session.expires_at for session in (used, fresh)}
        await do("touch", {**expiry_times, uuid4(): used.expires_at})

        assert (await do("get", used.id)).last_activity_at > used.last_activity_at
        assert await do("get", fresh.id) == fresh
        assert (await do("get", other.id)).last_activity_at < other.last_activity_at
        await do("touch", {})

    async def test_get_returns_live_and_ended_sessions(self, do, user):
        session = await do("add", new_session(user.id))
        assert await do("get", session.id) == session

        ended = await do("revoke", session.id)
        assert await do("get", session.id) == ended

    async def test_missing_session_raises_not_found(self, do):
        unknown = TokenKey(b"?" * 32)
        for ask in (do("get", uuid4()), do("revoke", uuid4()), do("revoke_by_token", unknown)):
            with pytest.raises(SessionNotFound):
                await ask

    async def test_recent_returns_live_sessions_by_last_activity(self, do, user, age, expire):
        several = [await do("add", new_session(user.id)) for _ in range(5)]
        await expire(several[0])
        await do("revoke", several[1].id)
        await age(several[2], last_activity_at=func.now() + SECOND)

        recent = await do("recent", user.id, limit=10)

        assert [row.id for row in recent] == [several[2].id, several[4].id, several[3].id]
        assert await do("recent", user.id, limit=2) == recent[:2]
        assert await do("recent", uuid4(), limit=10) == []

    @pytest.mark.parametrize("include_ended", [False, True])
    async def test_session_pages_are_newest_first(self, database, do, user, expire, include_ended):
        async with database.transaction() as tx:  # so that all were created at one moment
            rows = [await tx.sessions.add(new_session(user.id)) for _ in range(7)]
            stranger = await tx.users.add(new_user())
            await tx.sessions.add(new_session(stranger.id))
        await do("revoke", rows[0].id)
        await expire(rows[1])
        after, seen = None, []

        async with database.snapshot() as db:
            while page := await db.sessions.page(
                user.id, include_ended=include_ended, size=2, after=after
            ):
                seen += page
                after = KeysetCursor(page[-1].created_at, page[-1].id)

        wanted = rows if include_ended else rows[2:]
        newest_first = sorted(seen, key=lambda row: (row.created_at, row.id), reverse=True)
        assert seen == newest_first
        assert {row.id for row in seen} == {row.id for row in wanted}

    async def test_session_rows_hold_no_token_or_hash(self, do, user, validate):
        new = new_session(user.id)
        session = await do("add", new)
        valid = await validate(new.token_digest)

        assert sessions.c.token_digest not in SESSION_COLUMNS
        assert repr(new.token_digest) not in repr([new, session, valid])
        assert "a hash" not in repr(valid)
