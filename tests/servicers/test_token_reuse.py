"""Reuse of replaced tokens over a real channel, on a real database."""

import asyncio
import random
from datetime import timedelta

import grpc
import pytest
from grpc import StatusCode
from sqlalchemy import func, update
from structlog.testing import capture_logs

from tamatar.auth.v1 import session_service_pb2 as pb
from tamatar.auth.v1 import user_service_pb2
from tamatar_auth.storage.session_validation.statement import sessions_of_days, sessions_of_one_day
from tamatar_auth.storage.tables import sessions as sessions_table
from tests.support.calls import read_refusal, refresh, refusal, sign_in, validate
from tests.support.rows import former_token

REUSED = (StatusCode.UNAUTHENTICATED, "SESSION_REUSED")
REVOKED = (StatusCode.UNAUTHENTICATED, "SESSION_REVOKED")
UNKNOWN = (StatusCode.UNAUTHENTICATED, "SESSION_UNKNOWN")


@pytest.fixture
def rotated(sessions, user, database):
    """Sign in and refresh some times; return all tokens in order, the current one last."""

    async def rotated(times, *, of_former_format=False):
        tokens = [(await sessions.CreateSession(sign_in())).session_token]
        if of_former_format:
            tokens = [await former_token(database, tokens[0])]
        for _ in range(times):
            tokens.append((await refresh(sessions, tokens[-1])).session_token)
        return tokens

    return rotated


@pytest.fixture
def age(database):
    """Change columns of all sessions."""

    async def age(**columns):
        async with database.transaction() as tx:
            await tx.connection.execute(update(sessions_table).values(columns))

    return age


def revoke(sessions, token):
    return sessions.RevokeSession(pb.RevokeSessionRequest(session_token=token))


async def reason(call):
    """Return the reason of a refusal, or None if the call succeeded."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return read_refusal(error).reason
    return None


class TestReuse:
    """Refreshing with a replaced token."""

    async def test_reuse_of_first_token_ends_session(self, sessions, rotated):
        for times in (2, 3, 20):
            tokens = await rotated(times)

            assert await refusal(refresh(sessions, tokens[0])) == REUSED

            for token in tokens:
                assert await refusal(refresh(sessions, token)) == REVOKED
            assert await refusal(validate(sessions, tokens[-1])) == REVOKED

    async def test_reuse_of_middle_token_ends_session(self, sessions, rotated):
        tokens = await rotated(5)

        assert await refusal(refresh(sessions, tokens[2])) == REUSED

        assert await refusal(validate(sessions, tokens[-1])) == REVOKED

    async def test_reuse_keeps_other_sessions_of_user(self, sessions, rotated):
        tokens, (other,) = await rotated(2), await rotated(0)

        await refusal(refresh(sessions, tokens[0]))

        await validate(sessions, other)

    async def test_20_concurrent_reuses_end_session_once(self, sessions, rotated):
        tokens = await rotated(2)

        with capture_logs() as logs:
            ends = await asyncio.gather(*(refusal(refresh(sessions, tokens[0])) for _ in range(20)))

        assert sorted(ends) == sorted([REUSED, *[REVOKED] * 19])
        assert [entry["event"] for entry in logs if entry.get("audit")] == ["session.reused"]

    async def test_reuse_among_refreshes_ends_session(self, sessions, rotated):
        tokens = await rotated(3)
        used = [token for token in tokens for _ in range(10)]
        random.shuffle(used)

        ends = await asyncio.gather(*(reason(refresh(sessions, token)) for token in used))

        assert set(ends) <= {None, "SESSION_REUSED", "SESSION_REVOKED"}
        assert ends.count("SESSION_REUSED") == 1
        assert await refusal(validate(sessions, tokens[-1])) == REVOKED


class TestReplacedTokens:
    """Other calls with a replaced token."""

    async def test_refresh_with_last_replaced_token_returns_current(self, sessions, rotated):
        *_, last, present = await rotated(3)

        assert (await refresh(sessions, last)).session_token == present

    async def test_validate_with_replaced_token_ends_nothing(
        self, sessions, rotated, age, logged_statements
    ):
        first, second, present = await rotated(2)
        await age(rotated_at=func.now() - timedelta(seconds=11))
        before = logged_statements()

        for token in (first, second):
            assert await refusal(validate(sessions, token)) == UNKNOWN
        await validate(sessions, present)

        assert logged_statements() == [*before, *[("SELECT", "sessions")] * 3]
        for statement in (sessions_of_one_day, sessions_of_days):
            assert "replaced_tokens" not in str(statement)

    async def test_refresh_is_one_statement(self, sessions, rotated, statements):
        (token,) = await rotated(0)
        statements.clear()

        await refresh(sessions, token)

        assert len(statements) == 1

    async def test_revoke_by_any_replaced_token_ends_session(self, sessions, rotated, age):
        for place in range(4):
            tokens = await rotated(3)
            await age(rotated_at=func.now() - timedelta(seconds=11))

            ended = (await revoke(sessions, tokens[place])).session

            assert ended.HasField("revoke_time")
            assert await refusal(validate(sessions, tokens[-1])) == REVOKED
            assert (await revoke(sessions, tokens[place])).session == ended

    async def test_refresh_with_replaced_token_reports_end_of_session(
        self, users, sessions, user, rotated, age
    ):
        tokens = await rotated(3, of_former_format=True)
        await age(expires_at=func.now(), created_at=func.now() - timedelta(days=7))
        for token in tokens:
            assert (await refusal(refresh(sessions, token)))[1] == "SESSION_EXPIRED"

        tokens = await rotated(3)
        await users.DeleteUser(user_service_pb2.DeleteUserRequest(user_id=user.user_id))
        for token in tokens:
            assert await refusal(refresh(sessions, token)) == REVOKED

        await users.PurgeUser(user_service_pb2.PurgeUserRequest(user_id=user.user_id))
        for token in tokens:
            assert await refusal(refresh(sessions, token)) == UNKNOWN

    async def test_refresh_with_replaced_tokens_during_purge_is_refused(
        self, users, sessions, user, rotated
    ):
        tokens = await rotated(3)
        purge = users.PurgeUser(user_service_pb2.PurgeUserRequest(user_id=user.user_id))

        ends = await asyncio.gather(
            purge, *(reason(refresh(sessions, token)) for token in tokens * 5)
        )

        assert set(ends[1:]) <= {None, "SESSION_REUSED", "SESSION_REVOKED", "SESSION_UNKNOWN"}
        assert await refusal(refresh(sessions, tokens[0])) == UNKNOWN
