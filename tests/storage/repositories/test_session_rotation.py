"""RotationRepository: every method, on a real database."""

import asyncio
import itertools
import re
from datetime import timedelta

import pytest
from sqlalchemy import event, func, select, text, update

from tamatar_auth.errors.sessions import (
    SessionExpired,
    SessionIdle,
    SessionRevoked,
    SessionUnknown,
    UserInactive,
)
from tamatar_auth.errors.storage import TransactionConflict
from tamatar_auth.servicers.messages import session_message, validated_message
from tamatar_auth.storage.repositories.session_rotation import NewToken, RotationRepository
from tamatar_auth.storage.repositories.session_state import ROTATION_GRACE
from tamatar_auth.storage.repositories.token_keys import TokenKey
from tamatar_auth.storage.tables import replaced_tokens, sessions
from tests.support.rows import new_session, new_user
from tests.support.waiting import lock_is_waited_for

LIFETIME = timedelta(days=7)
SECOND = timedelta(seconds=1)
LIMIT = timedelta(minutes=30)

FIRST = b"1" * 32
NEXT = NewToken(b"2" * 32, b"n" * 32)
LATER = NewToken(b"3" * 32, b"m" * 32)


@pytest.fixture
def do(database):
    """Run one method of the repository in a transaction of its own."""

    async def do(method, digest, *arguments, idle_limit=None):
        async with database.transaction() as tx:
            rotations = RotationRepository(tx.connection, idle_limit)
            return await getattr(rotations, method)(TokenKey(digest), *arguments)

    return do


@pytest.fixture
async def user(database):
    async with database.transaction() as tx:
        return await tx.users.add(new_user(password_hash="a hash"))


@pytest.fixture
async def session(database, user):
    async with database.transaction() as tx:
        return await tx.sessions.add(new_session(user.id, token_digest=FIRST))


@pytest.fixture
def age(database, session):
    """Change columns of the session."""

    async def age(**columns):
        async with database.transaction() as tx:
            await tx.connection.execute(update(sessions).values(columns))

    return age


@pytest.fixture
def end(database, session, age):
    """End the session or its user, in one of several ways."""

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
def revoke_reused(database, session):
    async def revoke_reused():
        async with database.transaction() as tx:
            return await tx.rotations.revoke_reused(session)

    return revoke_reused


@pytest.fixture
def stored(database):
    async def stored():
        async with database.read() as db:
            return (await db.connection.execute(select(sessions))).one()

    return stored


@pytest.fixture
def remembered(database):
    """The digests of the tokens that were replaced."""

    async def remembered():
        async with database.read() as db:
            return set(
                (await db.connection.execute(select(replaced_tokens.c.token_digest))).scalars()
            )

    return remembered


@pytest.fixture
def rotate_on(do, session):
    """Rotate the first token and each that follows; return the digests in order."""

    async def rotate_on(times):
        digests = [FIRST, *(n.to_bytes(32) for n in range(times))]
        for old, new in itertools.pairwise(digests):
            assert await do("rotate", old, NewToken(new, new))
        return digests

    return rotate_on


@pytest.fixture
def statements(database):
    """The statements that are executed, with their values."""
    seen = []

    def see(_connection, _cursor, statement, values, *_):
        seen.append((statement, values))

    engine = database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", see)
    yield seen
    event.remove(engine, "before_cursor_execute", see)


class TestRevocation:
    """Revocations by replaced tokens."""

    async def test_concurrent_reuses_end_session_once(self, revoke_reused, stored):
        ends = await asyncio.gather(*(revoke_reused() for _ in range(10)), return_exceptions=True)

        assert ends.count(None) == 1
        assert {type(end) for end in ends} == {type(None), SessionRevoked}
        assert (await stored()).revoked_at is not None

    async def test_reuse_after_purge_raises_revoked(self, database, user, revoke_reused):
        async with database.transaction() as tx:
            await tx.users.purge(user.id)

        with pytest.raises(SessionRevoked):
            await revoke_reused()

    async def test_revoke_by_any_former_token_ends_session(self, database, session, rotate_on, age):
        digests = await rotate_on(3)
        await age(rotated_at=func.now() - ROTATION_GRACE)

        for digest in digests:
            await age(is_valid=True, revoked_at=None)
            async with database.transaction() as tx:
                ended = await tx.sessions.revoke_by_token(TokenKey(digest))
            assert (ended.id, ended.revoked_at is None) == (session.id, False)

    async def test_revoke_by_token_rotated_meanwhile_ends_session(self, database, session, stored):
        async def revoke():
            async with database.transaction() as tx:
                return await tx.sessions.revoke_by_token(TokenKey(FIRST))

        async with database.transaction() as tx:
            await tx.rotations.rotate(TokenKey(FIRST), NEXT)
            await tx.rotations.rotate(TokenKey(NEXT.digest), LATER)
            revocation = asyncio.create_task(revoke())
            while not await lock_is_waited_for(database):  # noqa: ASYNC110 - asks PostgreSQL
                await asyncio.sleep(0.01)

        await revocation
        row = await stored()
        assert (row.token_digest, row.is_valid) == (LATER.digest, False)


class TestFindRotated:
    """`find_rotated`."""

    async def test_find_rotated_reports_grace_until_it_ends(self, do, session, user, age):
        valid = await do("rotate", FIRST, NEXT)

        found = await do("find_rotated", FIRST)
        assert (found.valid, found.is_in_grace, found.nonce) == (valid, True, NEXT.nonce)

        await age(rotated_at=func.now() - ROTATION_GRACE + 8 * SECOND)
        assert (await do("find_rotated", FIRST)).is_in_grace
        await age(rotated_at=func.now() - ROTATION_GRACE)
        assert not (await do("find_rotated", FIRST)).is_in_grace

    @pytest.mark.parametrize("how", ENDS)
    async def test_find_rotated_of_ended_session_raises_its_end(self, do, end, rotate_on, how):
        *replaced, _ = await rotate_on(3)
        await end(how)

        for digest in replaced:
            with pytest.raises(ENDS[how]):
                await do("find_rotated", digest, idle_limit=LIMIT)

    @pytest.mark.parametrize("times", [2, 3, 100])
    async def test_find_rotated_grants_grace_to_last_token_only(
        self, do, session, rotate_on, times
    ):
        *older, last, present = await rotate_on(times)

        for digest in older:
            found = await do("find_rotated", digest)
            assert (found.valid.session.id, found.is_in_grace) == (session.id, False)
        found = await do("find_rotated", last)
        assert (found.is_in_grace, found.nonce) == (True, present)
        with pytest.raises(SessionUnknown):
            await do("find_rotated", b"?" * 32)

    async def test_replaced_tokens_of_purged_user_lead_to_no_session(
        self, database, do, user, rotate_on
    ):
        oldest, *_ = await rotate_on(3)
        async with database.transaction() as tx:
            await tx.users.purge(user.id)

        assert await do("rotate", oldest, LATER) is None
        with pytest.raises(SessionUnknown):
            await do("find_rotated", oldest)

    @pytest.mark.parametrize("find", ["find_rotated", "revoke_by_token"])
    async def test_replaced_token_is_found_by_indexes(self, database, rotate_on, statements, find):
        oldest, *_ = await rotate_on(2)
        async with database.transaction() as tx:
            repository = tx.rotations if find == "find_rotated" else tx.sessions
            await getattr(repository, find)(TokenKey(oldest))
        statement, values = statements[-1]

        async with database.transaction() as tx:
            await tx.connection.execute(text("SET LOCAL enable_seqscan = off"))
            plan = await tx.connection.exec_driver_sql(f"EXPLAIN {statement}", values)
            lines = "\n".join(plan.scalars())
        assert re.search(r"replaced_tokens_\d{8}_pkey", lines)
        assert "Seq Scan" not in lines

    async def test_find_rotated_of_current_token_raises_conflict(self, do, session):
        with pytest.raises(TransactionConflict):
            await do("find_rotated", FIRST)


class TestRotate:
    """`rotate`."""

    async def test_rotate_replaces_token_and_keeps_previous_digest(self, do, session, user, stored):
        valid = await do("rotate", FIRST, NEXT)

        assert valid.user == user
        assert valid.session == session._replace(last_activity_at=valid.session.last_activity_at)
        assert valid.session.last_activity_at > session.last_activity_at
        row = await stored()
        assert (row.previous_digest, row.token_digest) == (FIRST, NEXT.digest)
        assert row.rotation_nonce == NEXT.nonce
        assert row.rotated_at == row.last_activity_at

    async def test_rotate_remembers_every_replaced_token(self, database, rotate_on, stored):
        *replaced, _ = await rotate_on(5)

        async with database.read() as db:
            rows = (await db.connection.execute(select(replaced_tokens))).all()
        session = await stored()
        assert {row.token_digest for row in rows} == set(replaced)
        assert {row.session_id for row in rows} == {session.id}
        assert {row.expires_at for row in rows} == {session.expires_at}

    async def test_rotate_is_one_statement(self, do, session, statements):
        await do("rotate", FIRST, NEXT)

        assert len(statements) == 1

    async def test_rotate_of_token_not_current_returns_none(self, do, session, stored, remembered):
        assert await do("rotate", b"?" * 32, NEXT) is None
        await do("rotate", FIRST, NEXT)
        before = await stored()

        assert await do("rotate", FIRST, LATER) is None
        assert await stored() == before
        assert await remembered() == {FIRST}

    async def test_concurrent_rotations_one_succeeds(self, do, session, stored, remembered):
        tokens = [NewToken(bytes([n]) * 32, bytes([n]) * 32) for n in range(10)]

        ends = await asyncio.gather(*(do("rotate", FIRST, token) for token in tokens))

        (winner,) = [token for token, end in zip(tokens, ends, strict=True) if end]
        assert (await stored()).token_digest == winner.digest
        assert await remembered() == {FIRST}

    async def test_rotate_keeps_tokens_of_other_sessions(
        self, database, validator, do, session, user
    ):
        other = new_session(user.id)
        async with database.transaction() as tx:
            before = await tx.sessions.add(other)

        await do("rotate", FIRST, NEXT)

        validated = validated_message(await validator().validate(TokenKey(other.token_digest)))
        assert validated.session == session_message(before)

    @pytest.mark.parametrize("how", ENDS)
    async def test_rotate_of_ended_session_returns_none(self, do, end, stored, remembered, how):
        await end(how)

        assert await do("rotate", FIRST, NEXT, idle_limit=LIMIT) is None

        assert (await stored()).token_digest == FIRST
        assert await remembered() == set()
        with pytest.raises(ENDS[how]):
            await do("find_rotated", FIRST, idle_limit=LIMIT)

    async def test_rotate_of_idle_session_without_limit_succeeds(self, do, end):
        await end("idle")

        assert await do("rotate", FIRST, NEXT)

    async def test_rotate_during_revocation_returns_none(self, database, do, session, remembered):
        async with database.transaction() as tx:
            await tx.rotations.revoke_reused(session)
            replacement = asyncio.create_task(do("rotate", FIRST, NEXT))
            while not await lock_is_waited_for(database):  # noqa: ASYNC110 - asks PostgreSQL
                await asyncio.sleep(0.01)

        assert await replacement is None
        assert await remembered() == set()

    async def test_rotation_results_show_no_digest_or_nonce(self, do, session):
        valid = await do("rotate", FIRST, NEXT)
        found = await do("find_rotated", FIRST)

        for secret in (FIRST, NEXT.digest, NEXT.nonce):
            assert repr(secret) not in repr([valid, found, NEXT])


class TestStepUp:
    """`step_up`."""

    @pytest.fixture
    def validate(self, validator):
        """Validate one token."""

        def validate(digest):
            return validator().validate(TokenKey(digest))

        return validate

    async def test_step_up_renews_authentication(self, do, session, user):
        valid = await do("step_up", FIRST, NEXT.digest, "mfa otp pwd")

        assert valid.user == user
        assert valid.session.authentication_methods == "mfa otp pwd"
        assert valid.session.authenticated_at == valid.session.last_activity_at
        assert valid.session.authenticated_at > session.authenticated_at
        assert valid.session.created_at == session.created_at

    async def test_step_up_keeps_no_former_token(self, do, rotate_on, validate, remembered):
        first, second = await rotate_on(1)

        await do("step_up", second, NEXT.digest, "pwd")

        assert await remembered() == {first, second}
        for digest in (first, second):
            with pytest.raises(SessionUnknown):
                await validate(digest)
            assert not (await do("find_rotated", digest)).is_in_grace
        assert await validate(NEXT.digest)

    async def test_step_up_by_token_in_grace_succeeds(
        self, do, rotate_on, validate, remembered, age
    ):
        first, second = await rotate_on(1)

        assert await do("step_up", first, NEXT.digest, "pwd")

        assert await remembered() == {first, second}
        for digest in (first, second):
            with pytest.raises(SessionUnknown):
                await validate(digest)

    async def test_step_up_by_token_after_grace_raises(self, do, rotate_on, age, stored):
        first, second = await rotate_on(1)
        await age(rotated_at=func.now() - ROTATION_GRACE)

        with pytest.raises(SessionUnknown):
            await do("step_up", first, NEXT.digest, "pwd")
        assert (await stored()).token_digest == second

    async def test_refresh_after_step_up_gives_grace_again(self, do, session, validate):
        await do("step_up", FIRST, NEXT.digest, "pwd")

        await do("rotate", NEXT.digest, LATER)

        assert await validate(NEXT.digest)
        with pytest.raises(SessionUnknown):
            await validate(FIRST)

    @pytest.mark.parametrize("how", ENDS)
    async def test_step_up_of_ended_session_raises_its_end(self, do, end, stored, how):
        await end(how)

        with pytest.raises(ENDS[how]):
            await do("step_up", FIRST, NEXT.digest, "pwd", idle_limit=LIMIT)
        assert (await stored()).token_digest == FIRST

    async def test_concurrent_step_ups_one_succeeds(self, do, session, stored, remembered):
        digests = [bytes([n]) * 32 for n in range(10)]

        ends = await asyncio.gather(
            *(do("step_up", FIRST, digest, "pwd") for digest in digests), return_exceptions=True
        )

        (winner,) = [d for d, end in zip(digests, ends, strict=True) if isinstance(end, tuple)]
        assert sum(isinstance(end, SessionUnknown) for end in ends) == len(digests) - 1
        assert (await stored()).token_digest == winner
        assert await remembered() == {FIRST}

    async def test_step_up_during_revocation_raises(self, database, do, session, remembered):
        async with database.transaction() as tx:
            await tx.rotations.revoke_reused(session)
            step_up = asyncio.create_task(do("step_up", FIRST, NEXT.digest, "pwd"))
            while not await lock_is_waited_for(database):  # noqa: ASYNC110 - asks PostgreSQL
                await asyncio.sleep(0.01)

        with pytest.raises(SessionRevoked):
            await step_up
        assert await remembered() == set()

    async def test_step_up_finds_session_by_indexes(self, database, do, session, statements):
        await do("step_up", FIRST, NEXT.digest, "pwd")
        statement, values = statements[-1]

        async with database.transaction() as tx:
            await tx.connection.execute(text("SET LOCAL enable_seqscan = off"))
            plan = await tx.connection.exec_driver_sql(f"EXPLAIN {statement}", values)
            lines = "\n".join(plan.scalars())
        for column in ("token", "previous"):
            assert re.search(rf"sessions_\d{{8}}_{column}_digest_expires_at_idx", lines)
        assert "Seq Scan" not in lines
