"""Calls as spans, durations and traces, over a real channel and a real PostgreSQL."""

import asyncio
import contextlib
import json
from datetime import timedelta

import grpc
import pytest
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import baggage, trace
from opentelemetry.trace import SpanKind

from tamatar.auth.v1.session_service_pb2 import ValidateSessionRequest
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2 import ListUsersRequest, UserFilter
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.errors.users import UserNotFound
from tamatar_auth.interceptors.errors import ErrorInterceptor
from tamatar_auth.interceptors.in_flight import InFlightInterceptor
from tamatar_auth.interceptors.registry import HandlerRegistry
from tamatar_auth.interceptors.telemetry import TelemetryInterceptor
from tamatar_auth.observability import tracing
from tamatar_auth.observability.telemetry import Telemetry
from tamatar_auth.server.app import run_service
from tests.support.calls import ada, refusal, sign_in, validate, verify
from tests.support.rows import new_token
from tests.support.settings import changed
from tests.support.telemetry_capture import Recording, logged
from tests.support.waiting import eventually

CANARY = "canary-91c2@example.com"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
SPAN_ID = "b7ad6b7169203331"
TRACE_PARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"

FAULTS = {
    "UNKNOWN",
    "DEADLINE_EXCEEDED",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
}


@pytest.fixture
def recording():
    return Recording()


class Service:
    """A service that runs a given behaviour behind the interceptor."""

    def __init__(self, interceptor, behaviour):
        self._interceptor = interceptor
        self._behaviour = behaviour

    async def __aenter__(self):
        async def unary(request, context):
            return await self._behaviour(request, context) or b""

        async def stream(request, context):
            yield b"first"
            yield await self._behaviour(request, context) or b""

        async def takes(requests, context):
            received = [request async for request in requests]
            return await self._behaviour(received, context) or b""

        handlers = {
            "Unary": grpc.unary_unary_rpc_method_handler(unary),
            "Stream": grpc.unary_stream_rpc_method_handler(stream),
            "Takes": grpc.stream_unary_rpc_method_handler(takes),
        }
        self._drain = InFlightInterceptor(1000)
        interceptors = [self._drain, self._interceptor, ErrorInterceptor()]
        self._server = grpc.aio.server()
        answered = HandlerRegistry(self._server, interceptors)
        for name in ("t.Service", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"):
            answered.add_registered_method_handlers(name, handlers)
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        return self

    async def __aexit__(self, *_):
        await self._channel.close()
        await self._server.stop(5)
        await self._drain.wait_until_idle()  # a response may arrive before the span has ended

    async def call(self, method="Unary", service="t.Service", **options):
        """Call, and return the status."""
        call = self.start(method, service, **options)
        if method == "Stream":
            with contextlib.suppress(grpc.aio.AioRpcError):
                [message async for message in call]
        return await call.code()

    def start(self, method="Unary", service="t.Service", **options):
        """Call, and return the call in flight."""
        path = f"/{service}/{method}"
        if method == "Stream":
            return self._channel.unary_stream(path)(b"", **options)
        if method == "Takes":
            return self._channel.stream_unary(path)(iter([b"", b""]), **options)
        return self._channel.unary_unary(path)(b"", **options)


def both(recording):
    return TelemetryInterceptor(tracer=recording.tracer, meter=recording.meter)


async def nothing(_request, _context):
    pass


def code_of(span):
    return span.attributes["rpc.response.status_code"]


class TestTraces:
    """The trace of the caller."""

    async def test_call_span_joins_trace_of_caller(self, recording):
        async with Service(both(recording), nothing) as service:
            await service.call(metadata=[("traceparent", TRACE_PARENT)])

        (span,) = recording.spans
        assert f"{span.context.trace_id:032x}" == TRACE_ID
        assert f"{span.parent.span_id:016x}" == SPAN_ID

    async def test_unsampled_trace_of_caller_records_no_span(self, recording):
        unsampled = TRACE_PARENT.removesuffix("01") + "00"
        async with Service(both(recording), nothing) as service:
            await service.call(metadata=[("traceparent", unsampled)])

        assert not recording.spans
        assert len(recording.points("rpc.server.call.duration")) == 1

    @pytest.mark.parametrize(
        "hostile",
        [
            "",
            "00",
            TRACE_PARENT.upper(),
            TRACE_PARENT + "-more",
            f"ff-{TRACE_ID}-{SPAN_ID}-01",
            f"00-{'0' * 32}-{SPAN_ID}-01",
            f"00-{TRACE_ID}-{'0' * 16}-01",
            "00-" + "a" * 7000,
        ],
    )
    async def test_invalid_traceparent_is_ignored(self, recording, caplog, hostile):
        async with Service(both(recording), nothing) as service:
            assert await service.call(metadata=[("traceparent", hostile)]) is StatusCode.OK

        (span,) = recording.spans
        assert span.parent is None
        assert not caplog.records

    @given(
        st.one_of(st.text(), st.from_regex(r"\A[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}"))
    )
    def test_any_traceparent_text_can_be_parsed(self, value):
        class Context:
            def invocation_metadata(self):
                return (("traceparent", value),)

        tracing.caller_context(Context())

    async def test_baggage_and_tracestate_of_caller_are_dropped(self, recording):
        seen = []

        async def look(_request, _context):
            seen.append((baggage.get_all(), trace.get_current_span().get_span_context()))

        hostile = [("traceparent", TRACE_PARENT), ("baggage", "a=b"), ("tracestate", "a=b")]
        async with Service(both(recording), look) as service:
            await service.call(metadata=hostile)

        ((bags, span),) = seen
        assert (dict(bags), dict(span.trace_state)) == ({}, {})

    async def test_trace_of_caller_is_known_without_telemetry(self, recording):
        seen = []

        async def look(_request, _context):
            seen.append(tracing.current_span_context())

        async with Service(TelemetryInterceptor(), look) as service:
            for metadata in ([("traceparent", TRACE_PARENT)], [("traceparent", "?")], []):
                assert await service.call(metadata=metadata) is StatusCode.OK

        named, wrong, absent = seen
        assert (f"{named.trace_id:032x}", f"{named.span_id:016x}") == (TRACE_ID, SPAN_ID)
        assert not wrong.is_valid
        assert not absent.is_valid


@pytest.fixture
async def recorded(settings, database, recording):
    """The whole service, with its spans, metrics and debug log."""
    telemetry = Telemetry(tracer=recording.tracer, meter=recording.meter)
    loud = changed(settings, log_level="debug", slow_query=timedelta(0))
    with logged(loud) as stream:
        async with run_service(loud, telemetry) as service, channel_to(service) as channel:
            yield channel, stream


def channel_to(service):
    return grpc.aio.insecure_channel(str(service.addresses[0]))


class TestCalls:
    """Spans and durations of calls."""

    @pytest.mark.parametrize("method", ["Unary", "Stream", "Takes"])
    async def test_call_is_recorded_as_server_span_and_duration(self, recording, method):
        async with Service(both(recording), nothing) as service:
            assert await service.call(method) is StatusCode.OK

        (span,) = recording.spans
        assert (span.name, span.kind, span.parent) == (f"t.Service/{method}", SpanKind.SERVER, None)
        assert span.status.status_code is trace.StatusCode.UNSET
        assert dict(span.attributes) == {
            "rpc.system.name": "grpc",
            "rpc.method": f"t.Service/{method}",
            "rpc.response.status_code": "OK",
            "tamatar.db.statements": 0,
            "tamatar.db.seconds": 0.0,
        }
        (point,) = recording.points("rpc.server.call.duration")
        assert dict(point.attributes) == {
            "rpc.system.name": "grpc",
            "rpc.method": f"t.Service/{method}",
            "rpc.response.status_code": "OK",
        }
        assert (point.count, point.explicit_bounds[0], point.explicit_bounds[-1]) == (1, 0.005, 10)
        assert 0 < point.sum < 60

    @pytest.mark.parametrize("method", ["Unary", "Stream"])
    @pytest.mark.parametrize("code", [code for code in StatusCode if code is not StatusCode.OK])
    async def test_only_server_faults_are_recorded_as_errors(self, recording, code, method):
        async def abort(_request, context):
            await context.abort(code, CANARY)

        async with Service(both(recording), abort) as service:
            assert await service.call(method) is code

        (span,) = recording.spans
        (point,) = recording.points("rpc.server.call.duration")
        is_fault = code.name in FAULTS
        wanted = trace.StatusCode.ERROR if is_fault else trace.StatusCode.UNSET
        assert span.status.status_code is wanted
        for attributes in (span.attributes, point.attributes):
            assert attributes["rpc.response.status_code"] == code.name
            assert attributes.get("error.type") == (code.name if is_fault else None)
        assert CANARY not in recording.text

    @pytest.mark.parametrize(
        ("error", "code"),
        [(UserNotFound(), "NOT_FOUND"), (RuntimeError(CANARY), "INTERNAL")],
    )
    async def test_exception_is_recorded_with_status_of_response(self, recording, error, code):
        async def fail(_request, _context):
            raise error

        async with Service(both(recording), fail) as service:
            assert (await service.call()).name == code

        (span,) = recording.spans
        assert span.attributes["rpc.response.status_code"] == code
        assert not span.events
        assert CANARY not in recording.text

    async def test_cancelled_and_late_calls_have_different_codes(self, recording):
        arrived = asyncio.Event()

        async def wait(_request, _context):
            arrived.set()
            await asyncio.sleep(60)

        async with Service(both(recording), wait) as service:
            while not arrived.is_set():
                assert await service.call(timeout=1) is StatusCode.DEADLINE_EXCEEDED
            await eventually(lambda: recording.spans)
            late = recording.spans
            arrived.clear()
            call = service.start(timeout=60)
            await arrived.wait()
            call.cancel()
            await eventually(lambda: len(recording.spans) > len(late))

        cancelled = recording.spans[len(late) :]
        assert {code_of(span) for span in late} == {"DEADLINE_EXCEEDED"}
        assert late[0].status.status_code is trace.StatusCode.ERROR
        assert [code_of(span) for span in cancelled] == ["CANCELLED"]
        assert cancelled[0].status.status_code is trace.StatusCode.UNSET

    async def test_unknown_method_records_nothing(self, recording):
        async with Service(both(recording), nothing) as service:
            assert await service.call("Unknown") is StatusCode.UNIMPLEMENTED

        assert not recording.spans
        assert not recording.points("rpc.server.call.duration")

    @pytest.mark.parametrize(
        "name", ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"]
    )
    async def test_health_and_reflection_have_durations_and_no_spans(self, recording, name):
        async with Service(both(recording), nothing) as service:
            await service.call(service=name)
        assert not recording.spans
        assert len(recording.points("rpc.server.call.duration")) == 1

    async def test_create_user_span_has_statements_as_children(self, recorded, recording):
        channel, stream = recorded
        await UserServiceStub(channel).CreateUser(ada())

        *statements, call = recording.spans
        assert call.name == "tamatar.auth.v1.UserService/CreateUser"
        assert {"INSERT users", "INSERT user_profiles"} <= {span.name for span in statements}
        assert all(span.parent == call.context for span in statements)
        assert call.attributes["tamatar.db.statements"] == len(statements)
        assert 0 < call.attributes["tamatar.db.seconds"] < 60
        slow = [json.loads(line) for line in stream.getvalue().splitlines() if "slow" in line]
        slow = [line for line in slow if "rpc" in line]  # without those of background tasks
        assert {line["trace_id"] for line in slow} == {f"{call.context.trace_id:032x}"}
        assert {line["rpc"] for line in slow} == {call.name}
        assert {"INSERT users", "INSERT user_profiles", "COMMIT"} == {
            line["summary"] for line in slow
        }

    async def test_slow_shared_statement_names_the_method_of_its_calls(self, recorded):
        channel, stream = recorded
        await refusal(validate(SessionServiceStub(channel), new_token().text))

        lines = [json.loads(line) for line in stream.getvalue().splitlines()]
        (line,) = [line for line in lines if line.get("summary") == "SELECT sessions users"]
        assert line["event"] == "slow statement"
        assert line["rpc"] == "tamatar.auth.v1.SessionService/ValidateSession"

    async def test_telemetry_of_calls_holds_no_secrets(self, recorded, recording, database):
        channel, stream = recorded
        users, sessions = UserServiceStub(channel), SessionServiceStub(channel)
        who = {"email": CANARY, "username": "canary_name", "password": "canary password"}
        hostile = [("traceparent", CANARY), ("authorization", CANARY), ("baggage", CANARY)]

        created = await users.CreateUser(ada(**who), metadata=hostile)
        await verify(database, created.user)
        await refusal(users.CreateUser(ada(**who)))
        await refusal(users.CreateUser(ada(email=f"{CANARY}\0")))
        await refusal(sessions.CreateSession(sign_in(email=CANARY, password="a wrong canary")))
        session = await sessions.CreateSession(sign_in(email=CANARY, password="canary password"))
        token = session.session_token
        await sessions.ValidateSession(ValidateSessionRequest(session_token=token))
        await users.ListUsers(ListUsersRequest(filter=UserFilter(email_prefix=CANARY)))

        said = recording.text + stream.getvalue()
        assert "slow statement" in said
        assert "storage refused" in said
        for secret in ("canary", token, token.removeprefix("tms_")):
            assert secret not in said
