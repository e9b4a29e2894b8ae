"""Log lines: JSON or for people, one each whatever the input, and without what users keep."""

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
from tamatar_auth.observability.logs import configure_logs
from tamatar_auth.storage.repositories.users import NewUser
from tests.support.canaries import FORMS
from tests.support.telemetry_capture import logged

CANARY = "canary-5e0d@example.com"

log = structlog.get_logger("tamatar_auth.test")


PRODUCTION = Settings.load(
    environment="production",
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
    """Read each line, which must be JSON."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def only(stream):
    (line,) = lines(stream)
    return line


def test_a_line_tells_when_how_bad_where_and_what(stream):
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


# Hypothesis tries the constants of the code, too: a form of our secrets would be taken for one.
ANY_TEXT = st.text().filter(lambda text: not FORMS.search(text))


@given(ANY_TEXT, ANY_TEXT)
@pytest.mark.parametrize("lone", ["", "\ud800", "\x00\r\n\u2028\x85\x7f\x1b[2J"])
def test_any_text_is_one_line(lone, event, value):
    with logged(PRODUCTION) as stream:
        event, value = event + lone, value + lone
        log.warning(event, value=value)
        logging.getLogger("elsewhere").warning("%s", value)

    written = stream.getvalue()
    assert written.isascii()
    assert [char for char in written if not char.isprintable()] == ["\n", "\n"]
    ours, theirs = lines(stream)
    assert (ours["event"], ours["value"], theirs["event"]) == (event, value, value)


class Colour(enum.Enum):
    RED = 1


class Broken:
    def __repr__(self):
        raise RuntimeError(CANARY)


ENDLESS: dict[str, object] = {}
ENDLESS["again"] = ENDLESS


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
        (
            EmailTaken(),
            "tamatar_auth.errors.users.EmailTaken: The email address is already registered.",
        ),
        (ENDLESS, {"again": {"again": {"again": {"again": "<dict>"}}}}),
    ],
)
def test_values_are_json_and_objects_keep_what_they_hold(value, written):
    with logged(PRODUCTION) as stream:
        log.info("seen", value=value)

    assert only(stream)["value"] == written


def test_long_values_are_cut(stream):
    log.info("seen", value="x" * 100_000, values=list(range(100_000)))

    line = only(stream)
    assert len(line["value"]) < 5000
    assert len(line["values"]) == 100


def test_a_line_that_cannot_be_written_is_told_and_fails_nothing():
    with logged(PRODUCTION) as stream:
        log.info("seen", value=10**5000)

    assert only(stream)["event"] == "a log line could not be written"


@pytest.mark.parametrize("positional", [("%d", "x"), ("%s %s", 1), ("%(a)s", {"b": 1})])
def test_a_message_that_its_values_do_not_fit_is_kept(positional):
    with logged(PRODUCTION) as stream:
        logging.getLogger("elsewhere").warning(*positional)
        log.warning(*positional)

    assert [line["event"] for line in lines(stream)] == [positional[0]] * 2


def test_lines_of_libraries_and_warnings_look_like_ours(stream):
    logging.getLogger("elsewhere").warning("%s of %s", 1, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("soon gone", DeprecationWarning, stacklevel=1)

    theirs, warned = lines(stream)
    assert (theirs["logger"], theirs["event"]) == ("elsewhere", "1 of 2")
    assert (warned["logger"], warned["level"]) == ("py.warnings", "warning")
    assert "soon gone" in warned["event"]


def test_a_line_names_the_span_also_if_nothing_here_makes_spans(stream):
    log.info("before")
    remote = trace.SpanContext(trace_id=0xABC, span_id=0xDEF, is_remote=True)
    with trace.use_span(trace.NonRecordingSpan(remote)):
        log.info("within")

    before, within = lines(stream)
    assert "trace_id" not in before
    assert within["trace_id"] == f"{0xABC:032x}"
    assert within["span_id"] == f"{0xDEF:016x}"


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
def test_the_environment_decides_the_level_unless_one_is_set(environment, given, written):
    mine = PRODUCTION.model_copy(update={"environment": environment, "log_level": given})
    with logged(mine) as stream:
        for level in ("debug", "info", "warning"):
            getattr(log, level)("seen")

    assert [line["level"] for line in lines(stream)] == written


def test_libraries_are_heard_from_warnings_on_and_migrations_from_info_on():
    mine = PRODUCTION.model_copy(update={"log_level": "debug"})
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


def test_configuring_twice_writes_each_line_once():
    with logged(PRODUCTION) as first:
        second = io.StringIO()
        configure_logs(PRODUCTION, second)
        log.info("seen")

    assert not first.getvalue()
    assert only(second)["event"] == "seen"


def test_an_exception_is_told_with_its_causes_and_frames_but_no_variables(stream):
    def fail(secret):
        raise KeyError("lost") from ValueError("found")

    try:
        fail(CANARY)
    except KeyError:
        log.exception("failed")

    told = only(stream)["exception"]
    assert told.index("ValueError: found") < told.index("which led to") < told.index("KeyError")
    assert "in fail" in told
    assert CANARY not in told


@pytest.fixture
async def violation(database):
    """What PostgreSQL says of a second row with one address, in SQLAlchemy's words."""

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
async def test_a_database_error_is_told_without_its_text(violation, make, log_format):
    error = make(violation)
    mine = PRODUCTION.model_copy(update={"log_format": log_format})
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


async def test_a_task_that_nobody_awaits_tells_no_text_of_the_database(stream, violation):
    async def fail():
        raise violation

    task = asyncio.create_task(fail())
    await asyncio.wait({task})
    del task
    gc.collect()

    line = only(stream)
    assert (line["logger"], "never retrieved" in line["event"]) == ("asyncio", True)
    assert CANARY not in stream.getvalue()


async def test_a_connection_that_is_refused_tells_why(stream):
    with pytest.raises(psycopg.OperationalError) as refused:
        await psycopg.AsyncConnection.connect("postgresql://me:hunter2@127.0.0.1:1/x")
    log.error("failed", error=refused.value)

    assert "Connection refused" in only(stream)["error"]
    assert "hunter2" not in stream.getvalue()


@pytest.mark.parametrize(
    ("log_format", "stream", "is_json"),
    [
        ("auto", io.StringIO(), True),
        ("auto", Terminal(), False),
        ("json", Terminal(), True),
        ("console", io.StringIO(), False),
    ],
)
def test_lines_are_for_people_on_a_terminal(log_format, stream, is_json):
    with logged(PRODUCTION.model_copy(update={"log_format": log_format}), stream):
        log.info("listening", port=1)

    assert stream.getvalue().startswith("{") is is_json
    assert "listening" in stream.getvalue()


def test_a_terminal_gets_no_control_characters_but_our_own():
    hostile = "\x1b[2J\r\x00\x9b"
    with logged(PRODUCTION.model_copy(update={"log_format": "console"})) as stream:
        log.info(hostile, value=hostile, exc_info=ValueError(hostile))

    assert {char for char in stream.getvalue() if not char.isprintable()} == {"\n"}
