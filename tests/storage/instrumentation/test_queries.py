"""Statements of a real PostgreSQL as spans, durations, totals and log lines."""

import asyncio
import contextlib
import logging
from datetime import timedelta
from uuid import uuid4

import pytest
import structlog
from opentelemetry.trace import INVALID_SPAN, SpanKind, StatusCode
from sqlalchemy import delete, insert, select, text
from sqlalchemy.exc import DBAPIError

from tamatar_auth.storage.database import Database
from tamatar_auth.storage.engine import create_engine
from tamatar_auth.storage.instrumentation import statement_summary
from tamatar_auth.storage.instrumentation.call_record import (
    CallRecord,
    SampledCall,
    current_call,
)
from tamatar_auth.storage.instrumentation.pool_metrics import engine_pool_usage, observe_pools
from tamatar_auth.storage.instrumentation.queries import observe_statements
from tamatar_auth.storage.instrumentation.statement_summary import summarize
from tamatar_auth.storage.repositories.users import NewUser
from tamatar_auth.storage.tables import sessions, users
from tests.support.telemetry_capture import Recording

CANARY = "canary-7f3a@example.com"
SLOW = timedelta(hours=1)


@pytest.fixture
def recording():
    return Recording()


@pytest.fixture
async def watched(settings, database, recording):
    """A database with every kind of instrumentation."""
    engine = create_engine(settings.database)
    observe_statements(engine, SLOW, tracer=recording.tracer, meter=recording.meter)
    observe_pools(recording.meter, {"calls": lambda: engine_pool_usage(engine)})
    yield Database(engine)
    await engine.dispose()


@pytest.fixture
def database_of_its_own(settings, migrated_database):
    """Settings for a database of one test, because its statements show in the statistics."""
    return settings.with_database(migrated_database)


@pytest.fixture
def quiet(caplog):
    caplog.set_level(logging.INFO, "tamatar_auth")


@pytest.fixture
def call(recording):
    """A span that stands for a call."""
    with recording.tracer.start_as_current_span("call") as span:
        yield span


async def add_user(database, **given):
    async with database.transaction() as tx:
        return await tx.users.add(NewUser(**({"id": uuid4(), "email": CANARY} | given)))


def connections(recording):
    points = recording.points("db.client.connection.count")
    return {point.attributes["db.client.connection.state"]: point.value for point in points}


class TestLogs:
    """Totals and log lines."""

    async def test_call_totals_count_own_statements_in_every_scope(self, database_of_its_own):
        engine = create_engine(database_of_its_own.database)
        observe_statements(engine, SLOW)
        watched = Database(engine)

        async def call(number):
            counted = SampledCall(INVALID_SPAN)
            current_call.set(CallRecord("Call", (counted,)))
            for _ in range(number):
                async with watched.read() as db:
                    await db.connection.execute(text("SELECT pg_sleep(0.001)"))
            async with watched.snapshot() as db:
                await db.connection.execute(select(users.c.id))
            async with watched.transaction() as tx:
                await tx.connection.execute(delete(users))
            return counted

        tallies = await asyncio.gather(*(asyncio.create_task(call(number)) for number in range(5)))
        await engine.dispose()

        # Two of them are the COMMIT of the snapshot and that of the transaction.
        assert [counted.statements for counted in tallies] == [4, 5, 6, 7, 8]
        assert all(counted.seconds >= 0.001 * (counted.statements - 4) for counted in tallies)

    async def test_call_totals_count_failed_statements(self, watched):
        counted = SampledCall(INVALID_SPAN)
        in_tally = current_call.set(CallRecord("Call", (counted,)))
        async with watched.read() as db:
            with pytest.raises(DBAPIError):
                await db.connection.execute(text("SELECT 1 / 0"))
        current_call.reset(in_tally)

        assert counted.statements == 1

    async def test_slow_statement_is_warned_about_without_values(self, database_of_its_own, quiet):
        engine, lenient = (create_engine(database_of_its_own.database) for _ in range(2))
        observe_statements(engine, timedelta(milliseconds=250))
        observe_statements(lenient, SLOW)
        slow = select(users.c.id).where(users.c.email == CANARY, text("pg_sleep(:s) IS NOT NULL"))
        slow = slow.execution_options(summary="SELECT users")
        await add_user(Database(engine))
        with structlog.testing.capture_logs() as logs:
            async with engine.connect() as connection, lenient.connect() as other:
                await connection.execute(slow, {"s": 0.3})
                await other.execute(slow, {"s": 0.3})
        await engine.dispose()
        await lenient.dispose()

        (line,) = logs
        assert line.pop("seconds") >= 0.3
        assert line == {
            "event": "slow statement",
            "log_level": "warning",
            "summary": "SELECT users",
            "table": "users",
            "operation": "SELECT",
        }

    async def test_slow_statement_that_fails_is_warned_about(self, database_of_its_own, quiet):
        engine = create_engine(database_of_its_own.database)
        observe_statements(engine, timedelta(milliseconds=20))
        with structlog.testing.capture_logs() as logs:
            async with engine.connect() as connection:
                await connection.execute(text("SET statement_timeout = 50"))
                with pytest.raises(DBAPIError):
                    await connection.execute(
                        text("SELECT pg_sleep(60), :canary"), {"canary": CANARY}
                    )
        await engine.dispose()

        (line,) = [line for line in logs if "error" in line]
        assert (line["event"], line["error"]) == ("slow statement", "57014")
        assert (line["table"], line["operation"]) == (None, "SELECT")
        assert CANARY not in str(line)

    async def test_statement_is_logged_at_debug_level(self, watched, caplog):
        caplog.set_level(logging.DEBUG, "tamatar_auth")
        with structlog.testing.capture_logs() as logs:
            await add_user(watched)

        line, commit = logs
        assert line.pop("seconds") > 0
        assert line == {
            "event": "statement",
            "log_level": "debug",
            "summary": "INSERT users",
            "table": "users",
            "operation": "INSERT",
        }
        assert (commit["table"], commit["operation"]) == (None, "COMMIT")

    async def test_commit_that_waits_is_warned_about(self, database_of_its_own, quiet):
        engine = create_engine(database_of_its_own.database)
        observe_statements(engine, timedelta(milliseconds=250))
        await make_commits_wait(engine, 0.3)
        current_call.set(CallRecord("Users/Create"))
        with structlog.testing.capture_logs() as logs:
            await add_user(Database(engine))
        await engine.dispose()

        (line,) = logs
        assert line.pop("seconds") >= 0.3
        assert line == {
            "event": "slow statement",
            "log_level": "warning",
            "rpc": "Users/Create",
            "summary": "COMMIT",
            "table": None,
            "operation": "COMMIT",
        }

    def test_summaries_of_dynamic_statements_are_bounded(self):
        for number in range(2000):
            summarize({"summary": f"SELECT table_{number}"}, "")

        assert statement_summary._read.cache_info().currsize <= 256


class TestSpans:
    """Spans of statements."""

    async def test_statement_span_is_child_of_call_span(self, watched, recording, call):
        await add_user(watched)

        span = recording.span("INSERT users")
        assert span.parent.span_id == call.get_span_context().span_id
        assert span.kind is SpanKind.CLIENT
        assert span.status.status_code is StatusCode.UNSET
        text = span.attributes["db.query.text"]
        assert text.startswith("INSERT INTO users (")
        assert "%(email)s" in text
        assert {
            name: span.attributes[name] for name in span.attributes if name != "db.query.text"
        } == {
            "db.system.name": "postgresql",
            "db.operation.name": "INSERT",
            "db.collection.name": "users",
            "db.query.summary": "INSERT users",
            "db.namespace": await name_of(watched),
            "server.address": "127.0.0.1",
            "server.port": await port_of(watched),
        }

    async def test_statement_span_holds_no_values(self, watched, recording, call):
        await add_user(watched)
        with pytest.raises(DBAPIError, match=CANARY):
            await add_user(watched)
        async with watched.read() as db:
            await db.users.get_by_email(CANARY)
            await db.connection.exec_driver_sql(f"SELECT '{CANARY}'")

        assert len(recording.spans) == 6
        assert CANARY not in recording.text

    async def test_end_of_transaction_has_span(self, watched, recording, call):
        async with watched.snapshot() as db:
            await db.connection.execute(text("SELECT 1"))
        with contextlib.suppress(LookupError):
            async with watched.transaction() as tx:
                await tx.connection.execute(text("SELECT 1"))
                raise LookupError

        names = [span.name for span in recording.spans]
        assert names == ["SELECT", "COMMIT", "SELECT", "ROLLBACK"]
        commit, rollback = recording.span("COMMIT"), recording.span("ROLLBACK")
        assert commit.parent.span_id == call.get_span_context().span_id
        assert dict(commit.attributes) == {
            "db.system.name": "postgresql",
            "db.operation.name": "COMMIT",
            "db.query.summary": "COMMIT",
            "db.query.text": "COMMIT",
            "db.namespace": await name_of(watched),
            "server.address": "127.0.0.1",
            "server.port": await port_of(watched),
        }
        assert rollback.status.status_code is StatusCode.UNSET

    async def test_failed_commit_span_holds_its_sqlstate(
        self, database_of_its_own, recording, call
    ):
        engine = create_engine(database_of_its_own.database)
        observe_statements(engine, SLOW, tracer=recording.tracer)
        await make_commits_wait(engine, "fail")
        with pytest.raises(DBAPIError):
            await add_user(Database(engine))
        await engine.dispose()

        span = recording.span("COMMIT")
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes["db.response.status_code"] == "22P02"

    async def test_empty_transaction_has_no_span(self, watched, recording, call):
        async with watched.transaction():
            pass
        async with watched.read() as db:
            await db.connection.execute(text("SELECT 1"))

        assert [span.name for span in recording.spans] == ["SELECT"]

    async def test_statement_outside_a_call_has_no_span(self, watched, recording):
        await add_user(watched)

        assert not recording.spans

    async def test_failed_statement_span_holds_only_its_sqlstate(self, watched, recording, call):
        async with watched.read() as db:
            with pytest.raises(DBAPIError):
                await db.connection.execute(text("SELECT 1 / 0"))

        span = recording.span("SELECT")
        assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, None)
        assert span.attributes["db.response.status_code"] == "22012"
        assert span.attributes["error.type"] == "22012"
        assert not span.events

    async def test_cancelled_statement_span_ends_with_error(self, watched, recording, call):
        async with watched.read() as db:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(db.connection.execute(text("SELECT pg_sleep(60)")), 0.5)

        span = recording.span("SELECT")
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes["error.type"] == "CancelledError"
        assert "db.response.status_code" not in span.attributes

    @pytest.mark.parametrize(
        ("summary", "statement"),
        [
            ("SELECT sessions users", select(1).execution_options(summary="SELECT sessions users")),
            ("DELETE sessions", delete(sessions).execution_options(summary="DELETE sessions")),
            ("SELECT", select(users.c.id)),
            ("SELECT", text("  /* why */ -- not\n (select 1)")),
            ("SHOW", text("show server_version")),
            ("WITH", text("with one as (select 1) select * from one")),
        ],
    )
    async def test_summary_is_the_name_or_first_word(
        self, watched, recording, call, summary, statement
    ):
        async with watched.read() as db:
            await db.connection.execute(statement)

        span = recording.spans[-1]
        assert (span.name, span.attributes["db.query.summary"]) == (summary, summary)
        operation, *tables = summary.split()
        assert span.attributes["db.operation.name"] == operation
        assert span.attributes.get("db.collection.name") == (tables[0] if tables else None)


class TestMetrics:
    """Durations and pools as metrics."""

    async def test_durations_are_counted_by_table_and_operation(self, watched, recording):
        await add_user(watched)
        async with watched.read() as db:
            await db.users.get_by_email(CANARY)
            await db.users.get_by_email(CANARY)

        points = recording.points("db.client.operation.duration")
        assert {
            (p.attributes.get("db.collection.name"), p.attributes["db.operation.name"]): p.count
            for p in points
        } == {("users", "INSERT"): 1, (None, "COMMIT"): 1, ("users", "SELECT"): 2}
        for point in points:
            assert point.attributes["db.system.name"] == "postgresql"
            assert "error.type" not in point.attributes
            assert point.explicit_bounds == (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
            assert 0 < point.sum < 60

    async def test_durations_of_failures_are_counted_by_sqlstate(self, watched, recording):
        await add_user(watched)
        with pytest.raises(DBAPIError):
            await add_user(watched)

        points = recording.points("db.client.operation.duration")
        assert {
            (p.attributes.get("error.type"), p.attributes.get("db.response.status_code")): p.count
            for p in points
            if p.attributes["db.operation.name"] == "INSERT"
        } == {(None, None): 1, ("23505", "23505"): 1}

    async def test_pool_connections_are_counted_by_state(self, watched, settings, recording):
        async with watched.read() as first, watched.read() as second:
            await first.connection.execute(text("SELECT 1"))
            await second.connection.execute(text("SELECT 1"))
            assert connections(recording) == {"used": 2, "idle": 0}
        assert connections(recording) == {"used": 0, "idle": 2}

        (most,) = recording.points("db.client.connection.max")
        assert most.value == settings.database.pool_size
        assert most.attributes == {"db.client.connection.pool.name": "calls"}

    async def test_insert_of_many_rows_is_counted_once(self, watched, recording):
        rows = [{"id": uuid4(), "email": f"{number}@example.com"} for number in range(3)]
        async with watched.transaction() as tx:
            named = insert(users).execution_options(summary="INSERT users")
            await tx.connection.execute(named, rows)

        insertion, commit = recording.points("db.client.operation.duration")
        assert insertion.attributes["db.collection.name"] == "users"
        assert (insertion.count, commit.count) == (1, 1)


async def make_commits_wait(engine, seconds):
    """Let each transaction that inserts a user sleep when it commits, or fail at text."""
    async with engine.connect() as connection:
        await connection.execute(
            text(
                "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS"
                f" $$ BEGIN PERFORM pg_sleep('{seconds}'); RETURN NULL; END $$"
            )
        )
        await connection.execute(
            text(
                "CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON users INITIALLY DEFERRED"
                " FOR EACH ROW EXECUTE FUNCTION wait()"
            )
        )


async def name_of(database):
    async with database.read() as db:
        return (await db.connection.execute(text("SELECT current_database()"))).scalar_one()


async def port_of(database):
    async with database.read() as db:
        return (await db.connection.execute(text("SELECT inet_server_port()"))).scalar_one()
