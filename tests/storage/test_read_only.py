"""A server that became read-only: all connections to it are dropped at once."""

import asyncio
from urllib.parse import urlsplit

import grpc
import psycopg
import pytest
from grpc import StatusCode

from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.embedded.postgres import EmbeddedPostgres
from tamatar_auth.migrator.migrations import Migrations
from tamatar_auth.server.app import run_service
from tests.server.test_app import channel_to
from tests.support.calls import ada, refusal, refused, sign_in, validate, verify
from tests.support.waiting import eventually

UNKNOWN = (StatusCode.UNAUTHENTICATED, "SESSION_UNKNOWN")


@pytest.fixture
def two(tmp_path):
    """Two servers that both have the tables."""
    with (
        EmbeddedPostgres(tmp_path / "first", settings={"fsync": "off"}) as first,
        EmbeddedPostgres(tmp_path / "second", settings={"fsync": "off"}) as second,
    ):
        for postgres in (first, second):
            Migrations(postgres.url()).upgrade()
        yield first, second


def make_read_only(postgres):
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        connection.execute("SELECT pg_reload_conf()")


def either(passwords, *servers):
    """Return a URL that leads to the server that accepts writes."""
    urls = [urlsplit(server.url()) for server in servers]
    passwords.write_text(
        "".join(f"{url.hostname}:{url.port}:*:{url.username}:{url.password}\n" for url in urls)
    )
    passwords.chmod(0o600)
    places = ",".join(f"{url.hostname}:{url.port}" for url in urls)
    found = f"postgresql://{urls[0].username}@{places}{urls[0].path}"
    return f"{found}?passfile={passwords}&target_session_attrs=read-write"


async def test_read_only_server_is_left_for_writable_one(settings, two, tmp_path):
    mine = settings.with_database(either(tmp_path / "passwords", *two))
    async with run_service(mine) as service, channel_to(service) as channel:
        users, sessions = UserServiceStub(channel), SessionServiceStub(channel)
        await service.database.fill_pool()
        created = await users.CreateUser(ada())
        await verify(service.database, created.user)
        started = await sessions.CreateSession(sign_in())
        await validate(sessions, started.session_token)

        await asyncio.to_thread(make_read_only, two[0])
        said = await refused(until_it_is_refused(users))
        assert (said.code, said.reason) == (StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
        assert said.retry_seconds

        # Every connection leads to the other server now, also that of validations.
        assert await refusal(validate(sessions, started.session_token)) == UNKNOWN
        calls = [users.CreateUser(ada(email=f"{n}@example.com", password="")) for n in range(20)]
        assert len(await asyncio.gather(*calls)) == 20


async def test_validations_leave_read_only_server_without_any_write(settings, two, tmp_path):
    mine = settings.with_database(either(tmp_path / "passwords", *two))
    async with run_service(mine) as service, channel_to(service) as channel:
        users, sessions = UserServiceStub(channel), SessionServiceStub(channel)
        await verify(service.database, (await users.CreateUser(ada())).user)
        started = await sessions.CreateSession(sign_in())
        await validate(sessions, started.session_token)

        await asyncio.to_thread(make_read_only, two[0])
        await eventually(lambda: is_unknown(sessions, started.session_token))


async def is_unknown(sessions, token):
    try:
        await validate(sessions, token)
    except grpc.aio.AioRpcError as error:
        return error.code() is StatusCode.UNAUTHENTICATED
    return False


async def until_it_is_refused(users):
    """Create users until the server has read its settings again."""
    for number in range(1000):
        await users.CreateUser(ada(email=f"before{number}@example.com", password=""))
