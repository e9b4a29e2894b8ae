"""Exceptions as statuses, over a real channel."""

import asyncio
import json
from datetime import timedelta

import grpc
import pytest
import structlog
from grpc import StatusCode
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tamatar.auth.v1 import user_service_pb2 as pb
from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth import errors
from tamatar_auth.errors import Failure
from tamatar_auth.errors.storage import StorageUnavailable, StoredAlready
from tamatar_auth.interceptors.errors import ErrorInterceptor, status
from tamatar_auth.interceptors.registry import HandlerRegistry
from tamatar_auth.server.app import run_service
from tests.server.test_app import channel_to
from tests.support.calls import ada, refused, validate
from tests.support.rows import new_token, run
from tests.support.settings import changed
from tests.support.waiting import PATIENCE, eventually, lock_is_waited_for


def failures(parent=Failure):
    for child in parent.__subclasses__():
        yield child
        yield from failures(child)


@pytest.fixture
async def broken():
    """Return a function that calls a method whose handler raises a given error."""
    raised = []

    async def unary(_request, _context):
        raise raised[-1]

    async def stream(_request, _context):
        yield b"first"
        raise raised[-1]

    async def takes_stream(requests, _context):
        async for _ in requests:
            pass
        raise raised[-1]

    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Stream": grpc.unary_stream_rpc_method_handler(stream),
        "Takes": grpc.stream_unary_rpc_method_handler(takes_stream),
    }
    server = grpc.aio.server()
    answered = HandlerRegistry(server, [ErrorInterceptor()])
    answered.add_registered_method_handlers("t.Broken", handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:

        async def call(method, error):
            raised.append(error)
            if method == "Unary":
                return await refused(channel.unary_unary("/t.Broken/Unary")(b""))
            if method == "Takes":
                return await refused(channel.stream_unary("/t.Broken/Takes")(iter([b"", b""])))
            return await refused(read(channel.unary_stream("/t.Broken/Stream")(b"")))

        yield call
    await server.stop(None)


async def read(stream):
    return [message async for message in stream]


def read_stats(channel):
    return UserServiceStub(channel).GetUserStats(pb.GetUserStatsRequest())


def validate_unknown(channel):
    return validate(SessionServiceStub(channel), new_token().text)


UNKNOWN_CONSTRAINTS = [
    (
        "INSERT INTO users (id, email) SELECT md5('x')::uuid, n FROM generate_series(1, 2) AS n",
        StatusCode.ALREADY_EXISTS,
        "pk_users",
    ),
    (
        "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '23503', CONSTRAINT = 'no_parent'; END $$",
        StatusCode.FAILED_PRECONDITION,
        "no_parent",
    ),
    (
        "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '23P01', CONSTRAINT = 'no_overlap'; END $$",
        StatusCode.ALREADY_EXISTS,
        "no_overlap",
    ),
    (
        "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '23000', CONSTRAINT = 'of_a_trigger'; END $$",
        StatusCode.FAILED_PRECONDITION,
        "of_a_trigger",
    ),
]
"""Statements that violate constraints without a failure of their own."""


class TestFailures:
    """Failures and their statuses."""

    def test_reasons_and_failures_match_one_to_one(self):
        # StoredAlready is CONSTRAINT_VIOLATED with another code.
        reasons = [failure.reason for failure in failures() if failure is not StoredAlready]

        assert len(reasons) == len(set(reasons))
        assert set(reasons) == set(ErrorReason.keys()) - {"ERROR_REASON_UNSPECIFIED"}

    def test_failure_codes_are_grpc_statuses(self):
        assert {failure.code for failure in failures()} < set(StatusCode.__members__) - {"OK"}

    @pytest.mark.parametrize("name", ["code", "reason"])
    def test_interceptor_with_unknown_names_is_not_built(self, monkeypatch, name):
        monkeypatch.setattr(StorageUnavailable, name, "UNAVAILABEL")

        with pytest.raises(LookupError, match="StorageUnavailable"):
            ErrorInterceptor()

    def test_every_failure_is_listed_in_errors_docstring(self):
        for failure in failures():
            assert failure.__name__ in (errors.__doc__ or "")

    def test_status_with_many_violations_stays_small(self):
        violation = errors.FieldViolation("user_ids[100]", "must be a UUID " + "x" * 80)

        assert status(errors.InvalidFields(*[violation] * 1000)).ByteSize() < 4096

    @pytest.mark.parametrize("method", ["Unary", "Stream", "Takes"])
    @pytest.mark.parametrize("failure", [f for f in failures() if f is not errors.InternalFault])
    async def test_failure_is_returned_with_its_status_and_reason(self, broken, failure, method):
        said = await broken(method, failure())

        assert (said.code, said.reason) == (StatusCode[failure.code], failure.reason)
        assert said.message == failure.message
        if failure.retry_after is None:
            assert said.retry_seconds is None
        else:
            assert (
                0
                <= said.retry_seconds - failure.retry_after
                <= failure.retry_jitter * failure.retry_after
            )

    async def test_retry_delays_of_refusals_are_spread(self, broken):
        waits = [(await broken("Unary", StorageUnavailable())).retry_seconds for _ in range(20)]

        assert len(set(waits)) > 10


class TestFaults:
    """Faults, and errors of the database."""

    @pytest.mark.parametrize("method", ["Unary", "Stream", "Takes"])
    async def test_fault_returns_only_an_id_that_is_logged(self, broken, method):
        secret = "postgres://admin:planted@10.0.0.1"
        with structlog.testing.capture_logs() as logs:
            said = await broken(method, RuntimeError(secret))

        assert (said.code, said.reason) == (StatusCode.INTERNAL, "INTERNAL_FAULT")
        assert secret not in json.dumps([said.message, said.metadata])
        (entry,) = [entry for entry in logs if entry["event"] == "call failed"]
        assert entry["error_id"] == said.metadata["error_id"]
        assert entry["method"] == f"t.Broken/{method}"

    async def test_unexpected_database_error_is_internal_without_sql(self, users, database):
        async with database.transaction() as tx:
            await tx.connection.execute(text("ALTER TABLE user_profiles RENAME TO hidden"))
        try:
            with structlog.testing.capture_logs() as logs:
                said = await refused(users.CreateUser(ada()))
        finally:
            async with database.transaction() as tx:
                await tx.connection.execute(text("ALTER TABLE hidden RENAME TO user_profiles"))

        assert (said.code, said.reason) == (StatusCode.INTERNAL, "INTERNAL_FAULT")
        assert "profiles" not in said.message + str(said.metadata)
        (entry,) = [entry for entry in logs if entry["event"] == "call failed"]
        assert entry["error_id"] == said.metadata["error_id"]
        assert entry["sqlstate"] == "42P01"

    async def test_passed_caller_deadline_rolls_back_transaction(self, users, database, service):
        async with database.transaction() as tx:
            # The call waits for the outcome of this transaction, which has the same address.
            await tx.connection.execute(
                text("INSERT INTO users (id, email) VALUES (gen_random_uuid(), 'ada@example.com')")
            )
            said = await refused(users.CreateUser(ada(username="ada"), timeout=0.5))
            # The server notices the deadline by itself; until then the call might still succeed.
            await eventually(lambda: service.components.drain.in_flight == 0)
            await tx.connection.rollback()

        assert said.code is StatusCode.DEADLINE_EXCEEDED
        # The username is free, so the call left nothing, and its connections are returned.
        created = await users.CreateUser(ada(username="ada"))
        found = await users.GetUser(pb.GetUserRequest(username="ada"))
        assert found.user == created.user
        stats = await users.GetUserStats(pb.GetUserStatsRequest())
        assert stats.user_count == 1
        await eventually(lambda: service.database.pool.in_use == service.database.pool.waiting == 0)

    @pytest.mark.parametrize("call", [read_stats, validate_unknown])
    async def test_statement_timeout_is_deadline_exceeded(self, settings, database, call):
        hasty = changed(settings, statement_timeout=timedelta(milliseconds=200))
        async with (
            run_service(hasty) as service,
            channel_to(service) as channel,
            database.transaction() as tx,
        ):
            await tx.connection.execute(text("LOCK TABLE users"))
            said = await refused(call(channel))

        assert (said.code, said.reason) == (StatusCode.DEADLINE_EXCEEDED, "STORAGE_TIMED_OUT")

    @pytest.mark.parametrize("call", [read_stats, validate_unknown])
    async def test_statement_cancelled_by_operator_is_unavailable(self, channel, database, call):
        cancel = text(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        async with database.transaction() as tx:
            await tx.connection.execute(text("LOCK TABLE users"))
            calling = asyncio.ensure_future(refused(call(channel)))
            await eventually(lambda: lock_is_waited_for(database))
            await tx.connection.execute(cancel)
            said = await calling

        assert (said.code, said.reason) == (StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
        assert said.retry_seconds

    @pytest.mark.parametrize(("statement", "code", "constraint"), UNKNOWN_CONSTRAINTS)
    async def test_unknown_constraint_is_violated_and_logged(
        self, broken, database, statement, code, constraint
    ):
        with pytest.raises(DBAPIError) as violated:
            await run(database, text(statement))
        with structlog.testing.capture_logs() as logs:
            said = await broken("Unary", violated.value)

        assert (said.code, said.reason) == (code, "CONSTRAINT_VIOLATED")
        (entry,) = [entry for entry in logs if entry["event"] == "storage refused"]
        assert (entry["log_level"], entry["constraint"]) == ("warning", constraint)

    async def test_lock_timeout_is_aborted_with_retry_delay(self, settings, users, database):
        created = await users.CreateUser(ada())
        who = pb.DeactivateUserRequest(user_id=created.user.user_id)
        hasty = changed(settings, lock_timeout=timedelta(milliseconds=100))
        async with (
            run_service(hasty) as service,
            channel_to(service) as channel,
            database.transaction() as tx,
        ):
            await tx.connection.execute(text("SELECT * FROM users FOR UPDATE"))
            said = await refused(UserServiceStub(channel).DeactivateUser(who, timeout=PATIENCE))

        assert (said.code, said.reason) == (StatusCode.ABORTED, "TRANSACTION_CONFLICT")
        assert said.retry_seconds
