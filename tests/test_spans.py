"""What one CreateUser and one sign-in leave in spans, metrics and logs of the whole server."""

import io

import pytest
from opentelemetry.trace import SpanKind

from tamatar.auth.v1 import session_service_pb2
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.server import running
from tamatar_auth.telemetry import Telemetry
from tests.calls import PASSWORD, ada, refused, sign_in, verify
from tests.recording import Recording, logged
from tests.test_server import channel_to

CREATE_USER = "tamatar.auth.v1.UserService/CreateUser"
SECRETS = (PASSWORD, "ada@example.com", "canary", "$2b$", "tms_")


@pytest.fixture
async def recorded(settings, database):
    """A server that records, and what it recorded."""
    recording, lines = Recording(), io.StringIO()
    telemetry = Telemetry(tracer=recording.tracer, meter=recording.meter)
    with logged(settings.model_copy(update={"log_level": "debug"}), lines):
        async with running(settings, telemetry) as service, channel_to(service) as channel:
            yield channel, recording, lines, service.parts.drain


async def test_a_creation_is_a_span_with_its_statements_as_children(recorded):
    channel, recording, _, drain = recorded
    await UserServiceStub(channel).CreateUser(ada(username="canary"))
    await drain.finished()  # a call may be answered before its span has ended

    call = recording.span(CREATE_USER)
    children = [
        span
        for span in recording.spans
        if span.parent and span.parent.span_id == call.context.span_id
    ]
    assert call.kind is SpanKind.SERVER
    assert [child.name for child in children] == ["INSERT users", "INSERT user_profiles"]
    for child in children:
        assert child.kind is SpanKind.CLIENT
        assert child.attributes["db.system.name"] == "postgresql"
        assert call.start_time <= child.start_time <= child.end_time <= call.end_time
    counted = {key: value for key, value in call.attributes.items() if "statement" in key}
    assert 2 in counted.values()


async def test_nothing_secret_is_in_spans_metrics_or_logs(recorded, database):
    channel, recording, lines, drain = recorded
    users, sessions = UserServiceStub(channel), SessionServiceStub(channel)
    created = await users.CreateUser(ada(username="canary"))
    await refused(users.CreateUser(ada()))
    await refused(sessions.CreateSession(sign_in(password="canary canary")))
    await verify(database, created.user)
    started = await sessions.CreateSession(sign_in())
    await sessions.ValidateSession(
        session_service_pb2.ValidateSessionRequest(session_token=started.session_token)
    )

    await drain.finished()

    told = recording.text + lines.getvalue()
    assert "INSERT users" in told
    assert "rpc.server.call.duration" in told
    assert "db.client.operation.duration" in told
    for secret in (*SECRETS, started.session_token):
        assert secret not in told
