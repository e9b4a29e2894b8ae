"""Concurrent validations and BatchValidateSessions, over a real channel."""

import asyncio
from uuid import UUID, uuid4

import pytest
from grpc import StatusCode
from sqlalchemy import func, select, text, update

from tamatar.auth.v1 import session_service_pb2 as pb
from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar_auth.security.tokens import token_digest
from tamatar_auth.storage.repositories.session_state import ACTIVITY_PRECISION
from tamatar_auth.storage.tables import sessions as sessions_table
from tamatar_auth.storage.tables import users as users_table
from tests.support.calls import ada, refusal, refused, validate
from tests.support.rows import expire, new_session, new_token, run

REVOKED = (StatusCode.UNAUTHENTICATED, "SESSION_REVOKED")
UNKNOWN = "tms_" + "A" * 43


@pytest.fixture
async def started(users, settings, database):
    """Return a function that starts a session of a new user; it returns token and id."""

    async def started():
        created = await users.CreateUser(ada(email=f"{uuid4()}@example.com", password=""))
        token = new_token()
        new = new_session(UUID(created.user.user_id), token_digest=token.digest)
        async with database.transaction() as tx:
            session = await tx.sessions.add(new)
        return token.text, str(session.id)

    return started


def batch(sessions, *tokens):
    return sessions.BatchValidateSessions(pb.BatchValidateSessionsRequest(session_tokens=tokens))


def revoke(sessions, session_id):
    return sessions.RevokeSession(pb.RevokeSessionRequest(session_id=session_id))


async def test_200_concurrent_validations_share_statements(sessions, started, statements):
    good = [await started() for _ in range(8)]
    ended, ended_id = await started()
    await revoke(sessions, ended_id)
    statements.clear()

    answers = await asyncio.gather(
        *(validate(sessions, token) for token, _ in good * 20),
        *(refusal(validate(sessions, ended)) for _ in range(20)),
        *(refusal(validate(sessions, UNKNOWN)) for _ in range(20)),
    )

    assert [answer.session.session_id for answer in answers[:160]] == [key for _, key in good * 20]
    assert set(answers[160:180]) == {REVOKED}
    assert set(answers[180:]) == {(StatusCode.UNAUTHENTICATED, "SESSION_UNKNOWN")}
    assert len(statements) < 100


async def test_revoked_session_is_refused_amid_other_validations(sessions, started):
    others = [await started() for _ in range(8)]
    stopping = asyncio.Event()

    async def ask_on(token):
        while not stopping.is_set():
            await validate(sessions, token)

    asking = [asyncio.create_task(ask_on(token)) for token, _ in others]
    for _ in range(60):
        token, session_id = await started()
        asking.append(asyncio.create_task(ask_about(sessions, token)))
        await validate(sessions, token)
        await revoke(sessions, session_id)
        assert await refusal(validate(sessions, token)) == REVOKED
    stopping.set()
    await asyncio.gather(*asking)


async def ask_about(sessions, token):
    """Validate until the session is refused."""
    while True:
        answer = validate(sessions, token)
        if await answer.code() is not StatusCode.OK:
            assert await refusal(answer) == REVOKED
            return


async def test_lost_connection_fails_waiting_validations_only(sessions, started, service):
    token, _ = await started()
    await validate(sessions, token)
    all_backends = text(
        "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    for _ in range(10):
        asked = [validate(sessions, token) for _ in range(20)]
        await run(service.database, all_backends)
        for call in asked:
            assert await call.code() in {StatusCode.OK, StatusCode.UNAVAILABLE}

    await validate(sessions, token)


# BatchValidateSessions


async def test_batch_validate_returns_results_in_order(
    sessions, started, database, logged_statements
):
    (good, good_id), (ended, ended_id), (old, _), (gone, _) = [await started() for _ in range(4)]
    await revoke(sessions, ended_id)
    old = await expire(database, old)
    owner = (await validate(sessions, gone)).user.user_id
    barred = update(users_table).where(users_table.c.id == owner).values(is_active=False)
    await run(database, barred)
    alone = await validate(sessions, good)
    before = logged_statements()

    results = (await batch(sessions, good, ended, UNKNOWN, old, gone, good)).results

    assert logged_statements() == [*before, ("SELECT", "sessions")]
    assert [result.session.session_id for result in (results[0], results[5])] == [good_id] * 2
    assert (results[0].session, results[0].user) == (alone.session, alone.user)
    assert results[0].refusal == ErrorReason.ERROR_REASON_UNSPECIFIED
    for result, token in zip(results[1:5], (ended, UNKNOWN, old, gone), strict=True):
        _, reason = await refusal(validate(sessions, token))
        assert ErrorReason.Name(result.refusal) == reason
        assert not result.HasField("session")
        assert not result.HasField("user")


async def test_batch_validate_is_limited_to_1000_tokens(sessions, started):
    token, session_id = await started()

    results = (await batch(sessions, *[token] * 1000)).results
    assert {result.session.session_id for result in results} == {session_id}
    assert len(results) == 1000

    assert set((await refused(batch(sessions, *[token] * 1001))).fields) == {"session_tokens"}
    assert set((await refused(batch(sessions))).fields) == {"session_tokens"}


async def test_batch_validate_keeps_sessions_alive(sessions, started, database, service):
    tokens = [(await started())[0] for _ in range(3)]
    rested = func.now() - 2 * ACTIVITY_PRECISION
    await run(database, update(sessions_table).values(last_activity_at=rested))

    await batch(sessions, *tokens[:2])
    await service.components.activity.flush(service.database)

    recent = sessions_table.c.last_activity_at > func.now() - ACTIVITY_PRECISION
    kept = await run(database, select(sessions_table.c.token_digest).where(recent))
    assert set(kept.scalars()) == {token_digest(token) for token in tokens[:2]}
