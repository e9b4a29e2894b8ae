"""How strongly and when the users of sessions were authenticated, over a real channel."""

import pytest
from sqlalchemy import func, select, update

from tamatar.auth.v1 import session_service_pb2 as pb
from tamatar.auth.v1.session_pb2 import AssuranceLevel
from tamatar_auth.security.tokens import token_digest
from tamatar_auth.storage.tables import sessions as sessions_table
from tests.support.calls import refresh, sign_in, validate
from tests.support.rows import run

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
