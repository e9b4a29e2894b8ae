"""How strongly and when the users of sessions were authenticated, over a real channel."""

from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode
from sqlalchemy import func, select, update

from tamatar.auth.v1 import session_service_pb2 as pb
from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar.auth.v1.factor_pb2 import StepUpRequirement
from tamatar.auth.v1.session_pb2 import AssuranceLevel
from tamatar_auth.errors.sessions import SessionRevoked, SessionUnknown, StepUpRequired
from tamatar_auth.security.tokens import token_digest
from tamatar_auth.servicers.session_requirement import require_step_up
from tamatar_auth.storage.factor_tables import factors
from tamatar_auth.storage.tables import sessions as sessions_table
from tests.support.calls import ada, refresh, refusal, refused, sign_in, validate, verify
from tests.support.rows import run

STEP_UP_REQUIRED = (StatusCode.UNAUTHENTICATED, "STEP_UP_REQUIRED")
MINUTE = timedelta(minutes=1)

AAL1, AAL2 = AssuranceLevel.ASSURANCE_LEVEL_AAL1, AssuranceLevel.ASSURANCE_LEVEL_AAL2


@pytest.fixture
async def signed_in(sessions, user):
    """The answer to Ada's sign-in."""
    return await sessions.CreateSession(sign_in())


@pytest.fixture
def change(database):
    """Change columns of the session of a token."""

    async def change(token, **columns):
        is_session = sessions_table.c.token_digest == token_digest(token)
        await run(database, update(sessions_table).where(is_session).values(columns))

    return change


def ask(sessions, token, **required):
    """Validate a session with requirements."""
    request = pb.ValidateSessionRequest(session_token=token, **required)
    return sessions.ValidateSession(request)


def batch(sessions, *tokens, **required):
    request = pb.BatchValidateSessionsRequest(session_tokens=tokens, **required)
    return sessions.BatchValidateSessions(request)


class TestSession:
    """The fields of a session."""

    async def test_password_sign_in_starts_session_of_aal1(self, signed_in):
        session = signed_in.session

        assert session.assurance_level == AAL1
        assert session.authenticate_time == session.create_time
        assert session.authentication_methods == ["pwd"]

    async def test_every_answer_has_level_time_and_methods(self, sessions, signed_in, change):
        token, session_id = signed_in.session_token, signed_in.session.session_id
        proved = {"authenticated_at": func.now(), "authentication_methods": "mfa otp pwd"}
        await change(token, **proved)
        of_user = pb.ListSessionsRequest(user_id=signed_in.user.user_id)

        answers = [
            (await validate(sessions, token)).session,
            (await batch(sessions, token)).results[0].session,
            (await sessions.GetSession(pb.GetSessionRequest(session_id=session_id))).session,
            (await sessions.ListSessions(of_user)).sessions[0],
            (await refresh(sessions, token)).session,
            (await sessions.RevokeSession(pb.RevokeSessionRequest(session_id=session_id))).session,
        ]

        for session in answers:
            assert session.assurance_level == AAL2
            assert session.authentication_methods == ["mfa", "otp", "pwd"]
            assert session.authenticate_time == answers[0].authenticate_time
            assert session.authenticate_time.ToDatetime() > session.create_time.ToDatetime()

    async def test_sign_in_leaves_time_of_authentication_to_default(self, signed_in, database):
        stored = (await run(database, select(sessions_table))).one()

        assert stored.authenticated_at is None
        assert stored.authentication_methods == "pwd"


class TestRequirement:
    """What ValidateSession and BatchValidateSessions ask for."""

    async def test_level_that_is_not_reached_is_named(self, sessions, signed_in):
        refusal = await refused(ask(sessions, signed_in.session_token, min_assurance_level=AAL2))

        assert (refusal.code, refusal.reason) == STEP_UP_REQUIRED
        assert refusal.metadata == {"assurance_level": "AAL2"}

    async def test_session_of_asked_level_is_valid(self, sessions, signed_in, change):
        token = signed_in.session_token
        assert await ask(sessions, token, min_assurance_level=AAL1)

        await change(token, authentication_methods="mfa otp pwd")

        for level in (AAL1, AAL2):
            assert await ask(sessions, token, min_assurance_level=level)

    async def test_age_is_counted_by_the_clock_of_the_database(self, sessions, signed_in, change):
        token = signed_in.session_token
        for old, is_valid in ((4 * MINUTE, True), (5 * MINUTE, False), (timedelta(3), False)):
            await change(token, authenticated_at=func.now() - old)
            call = ask(sessions, token, max_authentication_age=5 * MINUTE)
            if is_valid:
                assert await call
            else:
                refusal = await refused(call)
                assert (refusal.code, refusal.reason) == STEP_UP_REQUIRED
                assert refusal.metadata == {"max_authentication_age": "300"}

    async def test_age_without_step_up_counts_from_sign_in(self, sessions, signed_in, change):
        token = signed_in.session_token
        await change(token, created_at=func.now() - timedelta(hours=1))

        assert await refusal(ask(sessions, token, max_authentication_age=MINUTE)) == (
            STEP_UP_REQUIRED
        )
        await change(token, authenticated_at=func.now())
        assert await ask(sessions, token, max_authentication_age=MINUTE)

    async def test_everything_that_is_missing_is_named(self, sessions, signed_in, change):
        await change(signed_in.session_token, authenticated_at=func.now() - MINUTE)
        required = {
            "min_assurance_level": AAL2,
            "max_authentication_age": Duration(seconds=1, nanos=500_000_000),
        }

        refusal = await refused(ask(sessions, signed_in.session_token, **required))

        assert refusal.metadata == {"assurance_level": "AAL2", "max_authentication_age": "1.5"}

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("min_assurance_level", 3),
            ("max_authentication_age", timedelta(0)),
            ("max_authentication_age", timedelta(days=31)),
        ],
    )
    async def test_requirement_out_of_range_is_refused(self, sessions, signed_in, field, value):
        for call in (ask, batch):
            refusal = await refused(call(sessions, signed_in.session_token, **{field: value}))
            assert refusal.code is StatusCode.INVALID_ARGUMENT
            assert set(refusal.fields) == {field}

    async def test_ended_session_is_refused_for_its_end(self, sessions, signed_in):
        token = signed_in.session_token
        await sessions.RevokeSession(pb.RevokeSessionRequest(session_token=token))

        code, reason = await refusal(ask(sessions, token, min_assurance_level=AAL2))

        assert (code, reason) == (StatusCode.UNAUTHENTICATED, "SESSION_REVOKED")

    async def test_token_in_grace_must_reach_the_requirement(self, sessions, signed_in):
        token = signed_in.session_token
        await refresh(sessions, token)

        assert await refusal(ask(sessions, token, min_assurance_level=AAL2)) == STEP_UP_REQUIRED
        assert await ask(sessions, token, min_assurance_level=AAL1)

    async def test_batch_refuses_entries_that_do_not_reach(self, sessions, signed_in, change):
        strong, weak, old = [
            (await sessions.CreateSession(sign_in())).session_token for _ in range(3)
        ]
        for token, proved in ((strong, func.now() + MINUTE), (old, func.now() - MINUTE)):
            methods = {"authentication_methods": "mfa swk user"}
            await change(token, authenticated_at=proved, **methods)
        required = {"min_assurance_level": AAL2, "max_authentication_age": timedelta(seconds=30)}

        results = (await batch(sessions, strong, weak, old, "unknown", **required)).results

        assert results[0].session.assurance_level == AAL2
        assert [result.refusal for result in results] == [
            ErrorReason.ERROR_REASON_UNSPECIFIED,
            ErrorReason.STEP_UP_REQUIRED,
            ErrorReason.STEP_UP_REQUIRED,
            ErrorReason.SESSION_UNKNOWN,
        ]
        for result in results[1:]:
            assert not result.HasField("session")
            assert not result.HasField("user")

    async def test_calls_with_requirements_make_one_read_and_no_write(
        self, sessions, signed_in, logged_statements
    ):
        token = signed_in.session_token
        await validate(sessions, token)
        before = logged_statements()

        required = {"min_assurance_level": AAL1, "max_authentication_age": timedelta(days=1)}
        await ask(sessions, token, **required)
        await batch(sessions, token, token, **required)

        assert logged_statements() == [*before, *[("SELECT", "sessions")] * 2]


class TestStepUpOfFactorCalls:
    """`require_step_up`, by which users change their own factors."""

    @pytest.fixture
    def require(self, database, signed_in):
        """Require a step-up of the session of Ada, or of given values."""

        async def require(user_id=None, **given):
            step_up = StepUpRequirement(**{"session_token": signed_in.session_token} | given)
            async with database.read() as db:
                await require_step_up(db, step_up, UUID(user_id or signed_in.user.user_id))

        return require

    @pytest.fixture
    async def add_factor(self, database, signed_in):
        async def add_factor(**given):
            values = {
                "id": uuid4(),
                "user_id": UUID(signed_in.user.user_id),
                "kind": "totp",
                "key_id": "1",
                "encrypted_secret": b"secret",
                "confirmed_at": func.now(),
            }
            await run(database, factors.insert().values(values | given))

        return add_factor

    async def test_step_up_that_is_not_asked_for_is_not_required(self, database):
        async with database.read() as db:
            await require_step_up(db, StepUpRequirement(), uuid4())

    async def test_recent_session_of_the_user_is_enough(self, require):
        await require()

    async def test_session_of_another_user_is_unknown(self, require, users, database):
        other = (await users.CreateUser(ada(email="grace@example.com"))).user
        await verify(database, other)

        with pytest.raises(SessionUnknown):
            await require(user_id=other.user_id)

    async def test_session_older_than_5_minutes_is_refused(self, require, signed_in, change):
        await change(signed_in.session_token, authenticated_at=func.now() - 5 * MINUTE)

        with pytest.raises(StepUpRequired) as caught:
            await require()
        assert caught.value.metadata == {"max_authentication_age": "300"}
        await require(max_authentication_age=timedelta(hours=1))

    async def test_user_with_second_factor_needs_aal2(self, require, signed_in, change, add_factor):
        await add_factor(confirmed_at=None)
        await add_factor(kind="recovery_codes", encrypted_secret=None)
        await require()
        await add_factor()

        with pytest.raises(StepUpRequired) as caught:
            await require()

        assert caught.value.metadata == {"assurance_level": "AAL2"}
        await change(signed_in.session_token, authentication_methods="mfa otp pwd")
        await require()

    async def test_ended_session_is_refused(self, require, sessions, signed_in):
        token = signed_in.session_token
        await sessions.RevokeSession(pb.RevokeSessionRequest(session_token=token))

        with pytest.raises(SessionRevoked):
            await require()
        with pytest.raises(SessionUnknown):
            await require(session_token="unknown")

    async def test_replaced_token_works_in_its_grace_only(
        self, require, sessions, signed_in, change
    ):
        fresh = await refresh(sessions, signed_in.session_token)
        await require()

        await change(fresh.session_token, rotated_at=func.now() - MINUTE)

        with pytest.raises(SessionUnknown):
            await require()
