"""A server with a wrong clock: the database's clock decides what is valid."""

import sys
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import grpc
import psycopg
import pytest
from grpc import StatusCode

from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.engine import create_engine
from tamatar_auth.storage.repositories.login_attempts import FREE_ATTEMPTS
from tests.support.calls import (
    INVALID_CREDENTIALS,
    TOO_MANY_ATTEMPTS,
    ada,
    password_reset,
    refresh,
    refusal,
    refused,
    reset,
    sign_in,
    validate,
)
from tests.support.commands import serving
from tests.support.databases import TEMPLATE
from tests.support.rows import expire

# A machine with a wrong clock: Python's functions return another time.
WRONG = """
import datetime, sys, time

ahead, true_time, true_datetime = float(sys.argv.pop(1)), time.time, datetime.datetime

class WrongDatetime(true_datetime):
    @classmethod
    def now(cls, tz=None):
        return true_datetime.now(tz) + datetime.timedelta(seconds=ahead)

    @classmethod
    def utcnow(cls):
        return cls.now(datetime.UTC).replace(tzinfo=None)

time.time = lambda: true_time() + ahead
time.time_ns = lambda: int(time.time() * 1e9)
datetime.datetime = WrongDatetime

from tamatar_auth.cli.app import app
app()
"""

MINUTES = timedelta(minutes=15)

ERRORS = {
    "an hour ahead": timedelta(hours=1),
    "an hour behind": timedelta(hours=-1),
    "a month ahead": timedelta(days=30),
    "a month behind": timedelta(days=-30),
}


@pytest.fixture(scope="module")
def database(postgres):
    name = f"clocks_{uuid4().hex}"
    yield postgres.create(name, TEMPLATE)
    postgres.drop(name)


@pytest.fixture(scope="module", params=ERRORS)
def address(request, database, tmp_path_factory):
    """The address of a server with a wrong clock."""
    ahead = str(ERRORS[request.param].total_seconds())
    command = (sys.executable, "-c", WRONG, ahead, "serve")
    folder = tmp_path_factory.mktemp("server")
    with serving(cwd=folder, command=command, TAMATAR_DATABASE_URL=database) as server:
        yield server.addresses[0]


@pytest.fixture
async def stubs(address):
    async with grpc.aio.insecure_channel(address) as channel:
        yield UserServiceStub(channel), SessionServiceStub(channel)


@pytest.fixture
def email():
    return f"{uuid4()}@example.com"


@pytest.fixture
def change_rows(database):
    """Change the age of rows, by the database's clock."""

    def change(*statements):
        with psycopg.connect(database) as connection:
            for statement in statements:
                connection.execute(statement)

    return change


@pytest.fixture
def expire_by_database(settings, database):
    """Expire the session of a token, by the database's clock."""

    async def expire_by_database(token):
        opened = Database(create_engine(settings.with_database(database).database))
        try:
            return await expire(opened, token)
        finally:
            await opened.close()

    return expire_by_database


async def test_valid_tokens_stay_valid_under_clock_skew(stubs, email):
    users, sessions = stubs
    await users.CreateUser(ada(email=email, email_verified=True))
    started = await sessions.CreateSession(sign_in(email=email))
    life = started.session.expire_time.ToDatetime() - started.session.create_time.ToDatetime()
    assert life == timedelta(days=7)
    assert abs(started.session.create_time.ToDatetime(UTC) - datetime.now(UTC)) < MINUTES

    fresh = await refresh(sessions, started.session_token)

    await validate(sessions, fresh.session_token)
    await validate(sessions, started.session_token)  # in its last ten seconds
    secret = await password_reset(users, email)
    assert abs(secret.expire_time.ToDatetime(UTC) - datetime.now(UTC)) < MINUTES
    await reset(users, secret.token)


async def test_expired_tokens_are_refused_under_clock_skew(
    stubs, email, change_rows, expire_by_database
):
    users, sessions = stubs
    await users.CreateUser(ada(email=email, email_verified=True))
    started = await sessions.CreateSession(sign_in(email=email))
    secret = await password_reset(users, email)

    token = await expire_by_database(started.session_token)
    change_rows("UPDATE user_tokens SET expires_at = now()")

    answer = await refusal(validate(sessions, token))
    assert answer == (StatusCode.UNAUTHENTICATED, "SESSION_EXPIRED")
    answer = await refusal(refresh(sessions, token))
    assert answer == (StatusCode.UNAUTHENTICATED, "SESSION_EXPIRED")
    answer = await refusal(reset(users, secret.token))
    assert answer == (StatusCode.UNAUTHENTICATED, "USER_TOKEN_INVALID")


async def test_throttle_waits_are_right_under_clock_skew(stubs, email, change_rows):
    users, sessions = stubs
    await users.CreateUser(ada(email=email, email_verified=True))
    for _ in range(FREE_ATTEMPTS):
        assert (
            await refusal(sessions.CreateSession(sign_in(email=email, password="x")))
            == INVALID_CREDENTIALS
        )
    change_rows("UPDATE password_attempts SET blocked_until = now() + interval '100 seconds'")

    said = await refused(sessions.CreateSession(sign_in(email=email)))
    assert (said.code, said.reason) == TOO_MANY_ATTEMPTS
    assert 0 < said.retry_seconds <= 100

    change_rows("UPDATE password_attempts SET blocked_until = now()")
    await sessions.CreateSession(sign_in(email=email))
