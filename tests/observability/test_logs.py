"""Log lines: JSON or for people, one for each event, without personal data."""

import asyncio
import enum
import gc
import io
import json
import logging
import math
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from sqlalchemy.exc import IntegrityError

from tamatar.auth.v1.user_service_pb2 import CreateUserRequest
from tamatar_auth.config.settings import Settings
from tamatar_auth.errors.users import EmailTaken
from tamatar_auth.observability.logs import configure_logs, warn_of_unknown_settings
from tamatar_auth.storage.repositories.user_tokens import TokenOwner
from tamatar_auth.storage.repositories.users import NewUser
from tests.support.canaries import FORMS
from tests.support.settings import changed
from tests.support.telemetry_capture import logged

CANARY = "canary-5e0d@example.com"

log = structlog.get_logger("tamatar_auth.test")


PRODUCTION = Settings.load(
    environment="production",
    database_url="postgresql://db/x",
    page_token_key="k" * 32,
    password_keys_file="keys",
    log_format="auto",
    log_level=None,
)


@pytest.fixture
def stream():
    with logged(PRODUCTION) as stream:
        yield stream


class Terminal(io.StringIO):
    def isatty(self):
        return True


def lines(stream):
    """Parse each line as JSON."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def only(stream):
    (line,) = lines(stream)
    return line


# Hypothesis tries the constants of the code too; the form of a secret would count as a leak.
ANY_TEXT = st.text().filter(lambda text: not FORMS.search(text))


class Colour(enum.Enum):
    RED = 1


class Broken:
    def __repr__(self):
        raise RuntimeError(CANARY)


ENDLESS: dict[str, object] = {}
ENDLESS["again"] = ENDLESS


class TestLines:
    """The content of a line."""

    @given(ANY_TEXT, ANY_TEXT)
    @pytest.mark.parametrize("lone", ["", "\ud800", "\x00\r\n\u2028\x85\x7f\x1b[2J"])
    def test_log_line_of_any_text_is_one_line(self, lone, event, value):
        with logged(PRODUCTION) as stream:
            event, value = event + lone, value + lone
            log.warning(event, value=value)
            logging.getLogger("elsewhere").warning("%s", value)

        written = stream.getvalue()
        assert written.isascii()
        assert [char for char in written if not char.isprintable()] == ["\n", "\n"]
        ours, theirs = lines(stream)
        assert (ours["event"], ours["value"], theirs["event"]) == (event, value, value)

    @pytest.mark.parametrize(
        ("value", "written"),
        [
            (None, None),
            (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
            (timedelta(seconds=1), "0:00:01"),
            (Path("/run/x"), "/run/x"),
            (Colour.RED, "RED"),
            (ValueError, "ValueError"),
            (math.nan, "nan"),
            ((1, {2}), [1, [2]]),
            ({1: "one"}, {"1": "one"}),
            (CANARY.encode(), "<bytes>"),
            (object(), "<object>"),
            (Broken(), "<Broken>"),
            (CreateUserRequest(email=CANARY), "<CreateUserRequest>"),
            (NewUser(id=UUID(int=1), email=CANARY), "<NewUser>"),
            (TokenOwner(UUID(int=1), CANARY), "<TokenOwner>"),
            (
                EmailTaken(),
                "tamatar_auth.errors.users.EmailTaken: The email address is already registered.",
            ),
            (ENDLESS, {"again": {"again": {"again": {"again": "<dict>"}}}}),
        ],
    )
    def test_log_values_are_json_and_objects_hide_content(self, value, written):
        with logged(PRODUCTION) as stream:
            log.info("seen", value=value)

        assert only(stream)["value"] == written

    def test_log_values_are_truncated(self, stream):
        log.info("seen", value="x" * 100_000, values=list(range(100_000)))

        line = only(stream)
        assert len(line["value"]) < 5000
        assert len(line["values"]) == 100

    def test_unwritable_log_line_is_reported(self):
        with logged(PRODUCTION) as stream:
            log.info("seen", value=10**5000)

        assert only(stream)["event"] == "a log line could not be written"

    @pytest.mark.parametrize("positional", [("%d", "x"), ("%s %s", 1), ("%(a)s", {"b": 1})])
    def test_log_message_with_wrong_arguments_is_kept(self, positional):
        with logged(PRODUCTION) as stream:
            logging.getLogger("elsewhere").warning(*positional)
            log.warning(*positional)

        assert [line["event"] for line in lines(stream)] == [positional[0]] * 2

    def test_log_lines_of_libraries_have_same_form(self, stream):
        logging.getLogger("elsewhere").warning("%s of %s", 1, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("soon gone", DeprecationWarning, stacklevel=1)

        theirs, warned = lines(stream)
        assert (theirs["logger"], theirs["event"]) == ("elsewhere", "1 of 2")
        assert (warned["logger"], warned["level"]) == ("py.warnings", "warning")
        assert "soon gone" in warned["event"]

    def test_log_line_names_current_span(self, stream):
        log.info("before")
        remote = trace.SpanContext(trace_id=0xABC, span_id=0xDEF, is_remote=True)
        with trace.use_span(trace.NonRecordingSpan(remote)):
            log.info("within")

        before, within = lines(stream)
        assert "trace_id" not in before
        assert within["trace_id"] == f"{0xABC:032x}"
        assert within["span_id"] == f"{0xDEF:016x}"


@pytest.fixture
async def violation(database):
    """The IntegrityError of a second row with one address."""

    async def add():
        async with database.transaction() as tx:
            await tx.users.add(NewUser(id=uuid4(), email=CANARY))

    await add()
    with pytest.raises(IntegrityError, match=CANARY) as caught:
        await add()
    return caught.value


def wrapped(error):
    try:
        try:
            raise error
        except IntegrityError as caught:
            raise RuntimeError(f"failed: {caught}") from caught
    except RuntimeError as caught:
        return caught


class TestExceptions:
    """Exceptions, whose texts may hold secrets."""

    def test_logged_exception_has_causes_but_no_variables(self, stream):
        def fail(secret):
            raise KeyError("lost") from ValueError("found")

        try:
            fail(CANARY)
        except KeyError:
            log.exception("failed")

        logged_text = only(stream)["exception"]
        assert (
            logged_text.index("ValueError: found")
            < logged_text.index("which led to")
            < logged_text.index("KeyError")
        )
        assert "in fail" in logged_text
        assert CANARY not in logged_text

    @pytest.mark.parametrize(
        "make",
        [
            lambda error: error,
            lambda error: error.orig,
            wrapped,
            lambda error: ExceptionGroup("several", [error, ValueError("x")]),
            lambda error: wrapped(error).with_traceback(None),
        ],
    )
    @pytest.mark.parametrize("log_format", ["json", "console"])
    async def test_logged_database_error_hides_its_text(self, violation, make, log_format):
        error = make(violation)
        mine = changed(PRODUCTION, log_format=log_format)
        with logged(mine) as stream:
            log.error("failed", exc_info=error, error=error, errors=[error])
            log.error("failed: %s %r", error, error)
            log.error(error)
            elsewhere = logging.getLogger("elsewhere")
            elsewhere.error("failed: %s %r", error, error, exc_info=error)
            elsewhere.error("failed: %(it)s", {"it": error})
            elsewhere.error(error)
            elsewhere.error(f"failed: {error} {error!r}", exc_info=error)

        assert CANARY not in stream.getvalue()
        assert "sqlstate 23505, constraint uq_users_email_live" in stream.getvalue()

    def test_database_error_without_sqlstate_is_its_class_alone(self, stream):
        log.error("failed", error=psycopg.DataError(CANARY))

        assert only(stream)["error"] == "DataError"

    async def test_unawaited_task_logs_no_database_text(self, stream, violation):
        async def fail():
            raise violation

        task = asyncio.create_task(fail())
        await asyncio.wait({task})
        del task
        gc.collect()

        line = only(stream)
        assert (line["logger"], "never retrieved" in line["event"]) == ("asyncio", True)
        assert CANARY not in stream.getvalue()

    async def test_logged_connection_error_has_its_cause(self, stream):
        with pytest.raises(psycopg.OperationalError) as refused:
            await psycopg.AsyncConnection.connect("postgresql://me:hunter2@127.0.0.1:1/x")
        log.error("failed", error=refused.value)

        assert "Connection refused" in only(stream)["error"]
        assert "hunter2" not in stream.getvalue()


class TestConfiguration:
    """Levels and formats."""

    def test_log_line_has_time_level_logger_and_event(self, stream):
        log.info("listening", addresses=["127.0.0.1:1"], port=1)

        line = only(stream)
        written = datetime.fromisoformat(line["timestamp"])
        assert line["timestamp"].endswith("Z")
        assert abs(datetime.now(UTC) - written) < timedelta(minutes=1)
        assert list(line) == ["timestamp", "level", "logger", "event", "addresses", "port"]
        assert list(line.values())[1:] == [
            "info",
            "tamatar_auth.test",
            "listening",
            ["127.0.0.1:1"],
            1,
        ]

    @pytest.mark.parametrize(
        ("environment", "given", "written"),
        [
            ("production", None, ["info", "warning"]),
            ("development", None, ["debug", "info", "warning"]),
            ("production", "debug", ["debug", "info", "warning"]),
            ("development", "warning", ["warning"]),
            ("development", "error", []),
        ],
    )
    def test_log_level_depends_on_environment_unless_set(self, environment, given, written):
        mine = changed(PRODUCTION, environment=environment, log_level=given)
        with logged(mine) as stream:
            for level in ("debug", "info", "warning"):
                getattr(log, level)("seen")

        assert [line["level"] for line in lines(stream)] == written

    def test_libraries_log_warnings_and_migrations_log_info(self):
        mine = changed(PRODUCTION, log_level="debug")
        with logged(mine) as stream:
            for name in ("grpc", "sqlalchemy.engine", "asyncio", "alembic.runtime.migration"):
                for level in (logging.DEBUG, logging.INFO, logging.WARNING):
                    logging.getLogger(name).log(level, "seen")

        assert [(line["logger"], line["level"]) for line in lines(stream)] == [
            ("grpc", "warning"),
            ("sqlalchemy.engine", "warning"),
            ("asyncio", "warning"),
            ("alembic.runtime.migration", "info"),
            ("alembic.runtime.migration", "warning"),
        ]

    def test_logs_configured_twice_write_each_line_once(self):
        with logged(PRODUCTION) as first:
            second = io.StringIO()
            configure_logs(PRODUCTION, second)
            log.info("seen")

        assert not first.getvalue()
        assert only(second)["event"] == "seen"

    @pytest.mark.parametrize(
        ("log_format", "stream", "is_json"),
        [
            ("auto", io.StringIO(), True),
            ("auto", Terminal(), False),
            ("json", Terminal(), True),
            ("console", io.StringIO(), False),
        ],
    )
    def test_log_format_depends_on_terminal(self, log_format, stream, is_json):
        with logged(changed(PRODUCTION, log_format=log_format), stream):
            log.info("listening", port=1)

        assert stream.getvalue().startswith("{") is is_json
        assert "listening" in stream.getvalue()

    def test_console_log_escapes_control_characters(self):
        hostile = "\x1b[2J\r\x00\x9b"
        with logged(changed(PRODUCTION, log_format="console")) as stream:
            log.info(hostile, value=hostile, exc_info=ValueError(hostile))

        assert {char for char in stream.getvalue() if not char.isprintable()} == {"\n"}

    def test_unknown_and_removed_settings_are_logged(self, monkeypatch):
        monkeypatch.setenv("TAMATAR_POOLSIZE", "9")
        monkeypatch.setenv("TAMATAR_POOL_WAIT", "1s")
        with structlog.testing.capture_logs() as lines:
            warn_of_unknown_settings()

        said = {line["variable"]: line for line in lines}
        assert said["TAMATAR_POOLSIZE"]["event"] == "setting is not known"
        assert said["TAMATAR_POOLSIZE"]["why"].endswith("did you mean TAMATAR_POOL_SIZE?")
        assert said["TAMATAR_POOL_WAIT"]["event"] == "setting was removed"
        assert said["TAMATAR_POOL_WAIT"]["instead"] == "calls always wait up to 1s"
        assert {line["log_level"] for line in lines} == {"warning"}
