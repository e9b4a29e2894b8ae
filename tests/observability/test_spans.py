"""Spans, metrics and logs of one CreateUser and one sign-in on the whole server."""

import asyncio
import io
import itertools

import pytest
from opentelemetry.trace import SpanKind
from sqlalchemy import text

from tamatar.auth.v1 import session_service_pb2
from tamatar.auth.v1 import user_service_pb2 as pb
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.observability.telemetry import Telemetry
from tamatar_auth.server.app import run_service
from tests.server.test_app import channel_to
from tests.support.calls import PASSWORD, ada, email_change, refused, sign_in
from tests.support.rows import new_token
from tests.support.settings import changed
from tests.support.telemetry_capture import Recording, logged
from tests.support.waiting import eventually

CREATE_USER = "tamatar.auth.v1.UserService/CreateUser"
VALIDATE_SESSION = "tamatar.auth.v1.SessionService/ValidateSession"
NEW_PASSWORD = "another canary battery"
SECRETS = (PASSWORD, "ada@example.com", "canary", "$2b$", "tms_")


@pytest.fixture
async def recorded(settings, database):
    """A server with telemetry, and the recorded telemetry."""
    recording, lines = Recording(), io.StringIO()
    telemetry = Telemetry(tracer=recording.tracer, meter=recording.meter)
    with logged(changed(settings, log_level="debug"), lines):
        async with run_service(settings, telemetry) as service, channel_to(service) as channel:
            yield channel, recording, lines, service.components.drain


async def test_create_user_call_is_span_with_statement_children(recorded):
    channel, recording, _, drain = recorded
    await UserServiceStub(channel).CreateUser(ada(username="canary"))
    await drain.wait_until_idle()  # a response may arrive before the span has ended

    call = recording.span(CREATE_USER)
    children = [
        span
        for span in recording.spans
        if span.parent and span.parent.span_id == call.context.span_id
    ]
    assert call.kind is SpanKind.SERVER
    names = [child.name for child in children]
    assert names == ["INSERT users", "INSERT user_profiles", "COMMIT"]
    for child in children:
        assert child.kind is SpanKind.CLIENT
        assert child.attributes["db.system.name"] == "postgresql"
        assert call.start_time <= child.start_time <= child.end_time <= call.end_time
    counted = {key: value for key, value in call.attributes.items() if "statement" in key}
    assert 3 in counted.values()


async def test_shared_statement_span_links_to_its_calls(recorded, database):
    channel, recording, _, drain = recorded
    sessions = SessionServiceStub(channel)
    unsampled = [("traceparent", f"00-{1:032x}-{1:016x}-00")]
    valid = session_service_pb2.ValidateSessionRequest(session_token=new_token().text)
    async with database.transaction() as tx:
        await tx.connection.execute(text("LOCK TABLE sessions"))
        calls = [refused(sessions.ValidateSession(valid)) for _ in range(20)]
        calls += [refused(sessions.ValidateSession(valid, metadata=unsampled)) for _ in range(20)]
        waiting = asyncio.gather(*calls)
        await eventually(lambda: drain.in_flight == len(calls))
    await waiting
    await drain.wait_until_idle()

    validations = [span for span in recording.spans if span.name == VALIDATE_SESSION]
    statements = [span for span in recording.spans if span.name == "SELECT sessions users"]
    links = [[link.context.span_id for link in statement.links] for statement in statements]
    assert len(validations) == 20
    assert sorted(itertools.chain(*links)) == sorted(span.context.span_id for span in validations)
    assert max(map(len, links)) > 1
    for statement, linked in zip(statements, links, strict=True):
        assert statement.parent.span_id == linked[0]
        assert statement.attributes["db.query.text"].startswith("SELECT ")
    assert {span.attributes["tamatar.db.statements"] for span in validations} == {1}
    assert all(span.attributes["tamatar.db.seconds"] > 0 for span in validations)


async def test_no_secret_is_in_spans_metrics_or_logs(recorded, database):
    channel, recording, lines, drain = recorded
    users, sessions = UserServiceStub(channel), SessionServiceStub(channel)
    secrets = {*SECRETS, NEW_PASSWORD, "tmu_"}
    created = await users.CreateUser(ada(username="canary"))
    who = {"user_id": created.user.user_id}
    await refused(users.CreateUser(ada()))
    await refused(users.CreateUser(ada(password="canary")))
    await refused(sessions.CreateSession(sign_in(password="canary canary")))
    made = await users.CreateEmailVerification(pb.CreateEmailVerificationRequest(**who))
    await users.VerifyEmail(pb.VerifyEmailRequest(token=made.token))
    await refused(users.VerifyEmail(pb.VerifyEmailRequest(token=made.token)))
    moved = await email_change(users, created.user, "canary@example.com")
    await refused(users.VerifyEmail(pb.VerifyEmailRequest(token=moved.token)))
    started = await sessions.CreateSession(sign_in())
    token = started.session_token
    valid = session_service_pb2.ValidateSessionRequest(session_token=token)
    await sessions.ValidateSession(valid)
    fresh = await sessions.RefreshSession(
        session_service_pb2.RefreshSessionRequest(session_token=token)
    )
    passwords = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    await users.ChangePassword(pb.ChangePasswordRequest(**who, **passwords))
    await refused(users.ChangePassword(pb.ChangePasswordRequest(**who, **passwords)))
    await refused(sessions.ValidateSession(valid))
    asked = pb.CreatePasswordResetRequest(email="ada@example.com")
    forgotten = await users.CreatePasswordReset(asked)
    again = pb.ResetPasswordRequest(token=forgotten.token, new_password=PASSWORD)
    await users.ResetPassword(again)
    await refused(users.ResetPassword(again))
    async with database.transaction() as tx:
        await tx.connection.execute(text("ALTER TABLE password_attempts RENAME TO hidden"))
    try:
        await refused(sessions.CreateSession(sign_in()))
    finally:
        async with database.transaction() as tx:
            await tx.connection.execute(text("ALTER TABLE hidden RENAME TO password_attempts"))
    await drain.wait_until_idle()

    output = recording.text + lines.getvalue()
    for expected in ("INSERT users", "rpc.server.call.duration", "db.client.operation.duration"):
        assert expected in output
    assert "sign_in.failed" in output
    assert "call failed" in output
    secrets |= {token, fresh.session_token, made.token, forgotten.token}
    assert not [secret for secret in secrets if secret in output]
