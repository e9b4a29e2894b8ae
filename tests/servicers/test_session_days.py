"""Tokens that know the day in which their session expires, over a real channel."""

import hmac
import secrets
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from grpc import StatusCode
from sqlalchemy import func, insert, select, update

from tamatar.auth.v1 import session_service_pb2 as pb
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.security.tokens import FIRST_DAY, TOKEN_BYTES, SessionToken
from tamatar_auth.server.app import run_service
from tamatar_auth.storage.tables import replaced_tokens
from tamatar_auth.storage.tables import sessions as sessions_table
from tests.server.test_app import channel_to
from tests.support.calls import ada, refresh, refusal, sign_in, validate, verify
from tests.support.rows import expire, former_token, new_session, new_token, run
from tests.support.settings import changed

DAY = timedelta(days=1)
TICK = timedelta(microseconds=1)
TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
UNKNOWN = (StatusCode.UNAUTHENTICATED, "SESSION_UNKNOWN")


def revoke(sessions, token):
    return sessions.RevokeSession(pb.RevokeSessionRequest(session_token=token))


def batch(sessions, *tokens):
    return sessions.BatchValidateSessions(pb.BatchValidateSessionsRequest(session_tokens=tokens))


def day_of(session):
    return (session.expire_time.ToDatetime(UTC) - FIRST_DAY) // DAY + 1


@pytest.fixture
def started_until(user, database):
    """Start a session that expires at a time, and return its token."""

    async def started_until(expires_at, token=None):
        user_id = UUID(user.user_id)
        token = token or SessionToken.issue(user_id, expires_at)
        new = new_session(user_id, token_digest=token.digest, expires_at=expires_at)
        async with database.transaction() as tx:
            await tx.sessions.add(new)
        return token.text

    return started_until


@pytest.mark.parametrize("lifetime", [DAY / 1440, 7 * DAY, 365 * DAY], ids=str)
async def test_token_has_the_day_in_which_its_session_expires(settings, database, lifetime):
    lasting = changed(settings, session_lifetime=lifetime)
    async with run_service(lasting) as service, channel_to(service) as channel:
        created = await UserServiceStub(channel).CreateUser(ada())
        await verify(database, created.user)
        sessions = SessionServiceStub(channel)

        started = await sessions.CreateSession(sign_in())

        assert SessionToken(started.session_token).day == day_of(started.session)
        fresh = await refresh(sessions, started.session_token)
        assert SessionToken(fresh.session_token).day == day_of(fresh.session)
        assert fresh.session.expire_time == started.session.expire_time
        await validate(sessions, fresh.session_token)
        await revoke(sessions, fresh.session_token)


@pytest.mark.parametrize("offset", [timedelta(0), TICK, -TICK], ids=["at", "after", "before"])
async def test_session_that_expires_about_midnight_is_found(sessions, started_until, offset):
    token = await started_until(TODAY + 3 * DAY + offset)
    other = await started_until(TODAY + 4 * DAY)

    (alone,) = (await batch(sessions, token)).results
    later, again = (await batch(sessions, other, token)).results
    assert alone == again
    assert alone.HasField("session")
    assert later.HasField("session")
    fresh = (await refresh(sessions, token)).session_token
    await validate(sessions, token)
    await revoke(sessions, fresh)


async def test_batch_finds_tokens_of_all_days_and_formats(sessions, started_until, database):
    tokens = [await started_until(TODAY + days * DAY + DAY / 2) for days in range(1, 14)]
    tokens.append(await former_token(database, await started_until(TODAY + DAY)))
    replaced = await started_until(TODAY + 2 * DAY)
    await refresh(sessions, replaced)

    results = (await batch(sessions, *tokens, new_token().text, "x", replaced)).results

    found = [result.HasField("session") for result in results]
    assert found == [True] * len(tokens) + [False, False, True]


async def test_token_of_another_day_is_unknown(sessions, started_until):
    expires_at = TODAY + 3 * DAY
    token = await started_until(expires_at)
    for days in (-1, 1):
        other = SessionToken.issue(uuid4(), expires_at + days * DAY)
        stored = await started_until(expires_at, other)
        for call in (validate, refresh):
            assert await refusal(call(sessions, stored)) == UNKNOWN
        assert (await refusal(revoke(sessions, stored)))[1] == "SESSION_NOT_FOUND"
        (result,) = (await batch(sessions, token, stored)).results[1:]
        assert not result.HasField("session")


async def test_token_whose_day_was_changed_is_unknown(sessions, user):
    token = (await sessions.CreateSession(sign_in())).session_token
    for place in range(4, 11):
        letter = "A" if token[place] != "A" else "B"
        changed_token = token[:place] + letter + token[place + 1 :]
        assert await refusal(validate(sessions, changed_token)) == UNKNOWN
    await validate(sessions, token)


async def test_token_of_former_format_works_until_it_expires(sessions, user, database):
    started = await sessions.CreateSession(sign_in())
    former = await former_token(database, started.session_token)

    await validate(sessions, former)
    fresh = (await refresh(sessions, former)).session_token
    assert SessionToken(fresh).day is None
    assert (await refresh(sessions, former)).session_token == fresh
    (result,) = (await batch(sessions, fresh)).results
    assert result.session.session_id == started.session.session_id

    week = {"created_at": TODAY - 7 * DAY, "expires_at": TODAY}
    await run(database, update(sessions_table).values(week))
    for call in (validate, refresh):
        assert (await refusal(call(sessions, fresh)))[1] == "SESSION_EXPIRED"
    await revoke(sessions, former)
    assert (await refusal(validate(sessions, fresh)))[1] == "SESSION_REVOKED"


async def test_refresh_follows_one_by_the_release_before(sessions, user, database):
    """A server of that release gives a successor without a header to any token."""
    token = (await sessions.CreateSession(sign_in())).session_token
    nonce = secrets.token_bytes(TOKEN_BYTES)
    mac = hmac.digest(token.encode(), nonce, "sha256")
    former = SessionToken(f"tms_{urlsafe_b64encode(mac).decode().rstrip('=')}")
    refreshed = {
        "token_digest": former.digest,
        "previous_digest": SessionToken(token).digest,
        "rotation_nonce": nonce,
        "rotated_at": func.now(),
    }
    await run(database, update(sessions_table).values(refreshed))
    remembered = select(*sessions_table.c["previous_digest", "id"])
    add = insert(replaced_tokens).from_select(["token_digest", "session_id"], remembered)
    await run(database, add)

    fresh = (await refresh(sessions, token)).session_token

    assert fresh == former.text
    await validate(sessions, fresh)


async def test_expired_token_is_refused_with_its_reason(sessions, user, database):
    token = await expire(database, (await sessions.CreateSession(sign_in())).session_token)

    for call in (validate, refresh):
        assert (await refusal(call(sessions, token)))[1] == "SESSION_EXPIRED"
    stored = await run(database, select(sessions_table.c.revoked_at))
    assert stored.scalar_one() is None
