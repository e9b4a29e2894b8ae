"""SessionService over a real channel, on a real database."""

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from grpc import StatusCode
from sqlalchemy import func, select

from tamatar.auth.v1 import session_service_pb2 as pb
from tamatar.auth.v1 import user_service_pb2
from tamatar_auth.storage.tables import sessions as sessions_table
from tests.support.calls import (
    INVALID_CREDENTIALS,
    PASSWORD,
    ada,
    refusal,
    refused,
    sign_in,
    validate,
)
from tests.support.rows import expire


async def age(database, session_id, **columns):
    async with database.transaction() as tx:
        await tx.connection.execute(
            sessions_table.update().where(sessions_table.c.id == session_id).values(columns)
        )


class TestSignIn:
    """CreateSession."""

    @pytest.mark.parametrize("who", [{"email": "ADA@example.com"}, {"username": "ADA"}])
    async def test_sign_in_starts_a_session_of_seven_days(self, sessions, user, who):
        before = datetime.now(UTC)

        client = {"user_agent": "curl/8", "ip_address": "2001:db8::1"}
        answer = await sessions.CreateSession(sign_in(client=client, **who))

        session = answer.session
        assert session.user_id == user.user_id
        assert session.expire_time.ToDatetime() - session.create_time.ToDatetime() == timedelta(
            days=7
        )
        assert (session.client.user_agent, session.client.ip_address) == ("curl/8", "2001:db8::1")
        assert answer.user.last_login_time == session.create_time
        assert abs(session.create_time.ToDatetime(UTC) - before) < timedelta(minutes=1)
        assert answer.session_token.startswith("tms_")
        assert answer.user.user_id == user.user_id

    async def test_sign_in_keeps_etag_of_user(self, users, sessions, user):
        before = await users.GetUser(user_service_pb2.GetUserRequest(user_id=user.user_id))

        answer = await sessions.CreateSession(sign_in())

        assert answer.user.etag == before.user.etag

    async def test_session_token_is_stored_as_digest(self, sessions, user, database):
        token = (await sessions.CreateSession(sign_in())).session_token

        async with database.read() as db:
            rows = await db.connection.execute(select(sessions_table))
            stored = rows.one()

        assert stored.token_digest == hashlib.sha256(token.encode()).digest()
        assert token not in str(stored)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"password": PASSWORD + "!"},
            {"password": "x"},
            {"email": "unknown@example.com"},
            {"username": "unknown"},
        ],
    )
    async def test_sign_in_with_wrong_credentials_is_refused(self, sessions, user, wrong):
        assert await refusal(sessions.CreateSession(sign_in(**wrong))) == INVALID_CREDENTIALS

    async def test_sign_in_of_user_without_password_is_refused(self, users, sessions):
        await users.CreateUser(ada(password=""))

        assert await refusal(sessions.CreateSession(sign_in())) == INVALID_CREDENTIALS

    async def test_sign_in_of_deleted_user_is_refused(self, users, sessions, user):
        await users.DeleteUser(user_service_pb2.DeleteUserRequest(user_id=user.user_id))

        assert await refusal(sessions.CreateSession(sign_in())) == INVALID_CREDENTIALS

    async def test_unverified_email_is_reported_after_right_password(self, users, sessions):
        created = await users.CreateUser(ada())

        right = sessions.CreateSession(sign_in())
        assert await refusal(right) == (StatusCode.FAILED_PRECONDITION, "EMAIL_NOT_VERIFIED")
        wrong = sessions.CreateSession(sign_in(password="something else"))
        assert await refusal(wrong) == INVALID_CREDENTIALS
        read = user_service_pb2.GetUserRequest(user_id=created.user.user_id)
        assert not (await users.GetUser(read)).user.HasField("last_login_time")

    async def test_unverified_email_is_refused_with_next_step(self, users, sessions):
        await users.CreateUser(ada())

        said = await refused(sessions.CreateSession(sign_in()))

        assert "CreateEmailVerification" in said.message
        assert "VerifyEmail" in said.message

    async def test_sign_in_with_unverified_email_adds_no_session(self, users, sessions, database):
        await users.CreateUser(ada())

        await refusal(sessions.CreateSession(sign_in()))

        async with database.read() as db:
            assert not (await db.connection.execute(select(sessions_table.c.id))).all()

    async def test_sign_ins_during_deletion_leave_no_live_session(
        self, users, sessions, user, database
    ):
        attempts = [asyncio.ensure_future(sessions.CreateSession(sign_in())) for _ in range(8)]
        await asyncio.sleep(0.01)
        await users.DeleteUser(user_service_pb2.DeleteUserRequest(user_id=user.user_id))
        outcomes = await asyncio.gather(*attempts, return_exceptions=True)

        async with database.read() as db:
            live = select(func.count()).select_from(sessions_table).where(sessions_table.c.is_valid)
            assert (await db.connection.execute(live)).scalar_one() == 0
        for outcome in outcomes:
            if not isinstance(outcome, BaseException):
                assert (await refusal(validate(sessions, outcome.session_token)))[0] is (
                    StatusCode.UNAUTHENTICATED
                )

    @pytest.mark.parametrize("token", ["tms_" + "A" * 43, "x", "😀" * 30])
    async def test_validate_unknown_token_is_refused(self, sessions, token):
        assert await refusal(validate(sessions, token)) == (
            StatusCode.UNAUTHENTICATED,
            "SESSION_UNKNOWN",
        )


class TestValidate:
    """ValidateSession."""

    async def test_validate_returns_session_and_user(self, sessions, user):
        started = await sessions.CreateSession(sign_in())

        answer = await validate(sessions, started.session_token)

        assert answer.session == started.session
        assert answer.user == started.user

    async def test_validate_is_one_statement_and_no_write(self, sessions, user, logged_statements):
        token = (await sessions.CreateSession(sign_in())).session_token
        before = logged_statements()

        await validate(sessions, token)

        assert logged_statements() == [*before, ("SELECT", "sessions")]

    async def test_validate_expired_session_is_refused(self, sessions, user, database):
        started = await sessions.CreateSession(sign_in())
        token = await expire(database, started.session_token)

        assert await refusal(validate(sessions, token)) == (
            StatusCode.UNAUTHENTICATED,
            "SESSION_EXPIRED",
        )

    async def test_validate_session_of_inactive_user_is_refused(self, sessions, user, database):
        started = await sessions.CreateSession(sign_in())
        async with database.transaction() as tx:
            await tx.users.set_active(started.user.user_id, active=False)

        assert await refusal(validate(sessions, started.session_token)) == (
            StatusCode.UNAUTHENTICATED,
            "USER_INACTIVE",
        )

    @pytest.mark.parametrize("by", ["session_id", "session_token"])
    async def test_validate_revoked_session_is_refused(self, sessions, user, by):
        started = await sessions.CreateSession(sign_in())
        which = {"session_id": started.session.session_id, "session_token": started.session_token}
        request = pb.RevokeSessionRequest(**{by: which[by]})

        revoked = (await sessions.RevokeSession(request)).session

        assert revoked.HasField("revoke_time")
        assert await refusal(validate(sessions, started.session_token)) == (
            StatusCode.UNAUTHENTICATED,
            "SESSION_REVOKED",
        )
        assert (await sessions.RevokeSession(request)).session == revoked


class TestSessions:
    """Sessions that are read, listed and revoked."""

    async def test_unknown_session_is_not_found(self, sessions):
        missing = (StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
        unknown = str(uuid4())
        by_id = sessions.RevokeSession(pb.RevokeSessionRequest(session_id=unknown))
        assert await refusal(by_id) == missing
        by_token = sessions.RevokeSession(pb.RevokeSessionRequest(session_token="tms_x"))
        assert await refusal(by_token) == missing
        assert (
            await refusal(sessions.GetSession(pb.GetSessionRequest(session_id=unknown))) == missing
        )

    async def test_revoke_user_sessions_keeps_excepted_one(self, sessions, user):
        started = [await sessions.CreateSession(sign_in()) for _ in range(4)]
        kept = started[2]

        answer = await sessions.RevokeUserSessions(
            pb.RevokeUserSessionsRequest(
                user_id=user.user_id, except_session_id=kept.session.session_id
            )
        )

        assert answer.revoked_session_count == 3
        await validate(sessions, kept.session_token)
        everything = pb.RevokeUserSessionsRequest(user_id=user.user_id)
        assert (await sessions.RevokeUserSessions(everything)).revoked_session_count == 1
        assert (await sessions.RevokeUserSessions(everything)).revoked_session_count == 0

    async def test_get_session_returns_live_and_ended(self, sessions, user):
        started = await sessions.CreateSession(sign_in())
        read = pb.GetSessionRequest(session_id=started.session.session_id)
        assert (await sessions.GetSession(read)).session == started.session

        await sessions.RevokeSession(pb.RevokeSessionRequest(session_token=started.session_token))
        assert (await sessions.GetSession(read)).session.HasField("revoke_time")

    async def test_sessions_of_deleted_user_are_not_found(self, users, sessions, user):
        started = await sessions.CreateSession(sign_in())
        await users.DeleteUser(user_service_pb2.DeleteUserRequest(user_id=user.user_id))

        read = pb.GetSessionRequest(session_id=started.session.session_id)
        assert await refusal(sessions.GetSession(read)) == (
            StatusCode.NOT_FOUND,
            "SESSION_NOT_FOUND",
        )
        every = pb.ListSessionsRequest(user_id=user.user_id, include_ended=True)
        assert await refusal(sessions.ListSessions(every)) == (
            StatusCode.NOT_FOUND,
            "USER_NOT_FOUND",
        )

    async def test_list_sessions_pages_are_newest_first(self, sessions, user):
        started = [(await sessions.CreateSession(sign_in())).session for _ in range(7)]
        ended = started.pop(3)
        await sessions.RevokeSession(pb.RevokeSessionRequest(session_id=ended.session_id))

        async def pages(**given):
            request = pb.ListSessionsRequest(user_id=user.user_id, page_size=2, **given)
            while True:
                page = await sessions.ListSessions(request)
                for session in page.sessions:
                    yield session.session_id
                request.page_token = page.next_page_token
                if not request.page_token:
                    return

        live = [session.session_id for session in reversed(started)]
        assert [session_id async for session_id in pages()] == live
        everything = [session_id async for session_id in pages(include_ended=True)]
        assert len(everything) == 7
        assert ended.session_id in everything

    async def test_list_sessions_token_of_other_query_is_refused(self, users, sessions, user):
        other = (await users.CreateUser(ada(email="other@example.com"))).user
        for _ in range(2):
            await sessions.CreateSession(sign_in())
        request = pb.ListSessionsRequest(user_id=user.user_id, page_size=1)
        token = (await sessions.ListSessions(request)).next_page_token

        for given in (
            {"user_id": other.user_id},
            {"user_id": user.user_id, "include_ended": True},
        ):
            request = pb.ListSessionsRequest(page_token=token, **given)
            assert await refusal(sessions.ListSessions(request)) == (
                StatusCode.INVALID_ARGUMENT,
                "INVALID_PAGE_TOKEN",
            )

    async def test_sessions_of_unknown_user_are_not_found(self, sessions):
        missing = (StatusCode.NOT_FOUND, "USER_NOT_FOUND")
        unknown = str(uuid4())
        listed = sessions.ListSessions(pb.ListSessionsRequest(user_id=unknown))
        assert await refusal(listed) == missing
        ended = sessions.RevokeUserSessions(pb.RevokeUserSessionsRequest(user_id=unknown))
        assert await refusal(ended) == missing
