"""What a connection pins, and the servers and databases that it refuses."""

import os

import psycopg
import pytest
import structlog
from grpc import StatusCode
from psycopg import sql

from tamatar.auth.v1 import user_service_pb2 as pb
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.migrator.connection import MigrationError, connect
from tamatar_auth.server.app import run_service
from tamatar_auth.storage.driver import server_parameters
from tamatar_auth.storage.driver.connect import connector
from tamatar_auth.storage.driver.orphaned_statements import OrphanedStatements
from tamatar_auth.storage.driver.server_parameters import UnsupportedServerError
from tests.server.test_app import channel_to, said
from tests.support.calls import ada, refusal
from tests.support.commands import tamatar
from tests.support.waiting import eventually

HOSTILE = {
    "DateStyle": "SQL, DMY",
    "client_encoding": "LATIN1",
    "IntervalStyle": "iso_8601",
    "TimeZone": "Asia/Kolkata",
    "standard_conforming_strings": "off",
    "client_min_messages": "error",
}
"""Parameters that a database may set, with values that break a statement or an answer."""

WANTED = {
    "DateStyle": "ISO",
    "client_encoding": "UTF8",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "standard_conforming_strings": "on",
    "client_min_messages": "notice",
}

VARIABLES = {
    "PGDATESTYLE": "German",
    "PGCLIENTENCODING": "LATIN1",
    "PGTZ": "Asia/Kolkata",
    "PGOPTIONS": "-c client_min_messages=error -c intervalstyle=iso_8601",
}

UNAVAILABLE = (StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
OTHER_ENCODINGS = ("LATIN1", "SQL_ASCII")


@pytest.fixture
def hostile_database(migrated_database):
    """A database with parameters that no connection of ours may have."""
    name = sql.Identifier(psycopg.conninfo.conninfo_to_dict(migrated_database)["dbname"])
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        for parameter, value in HOSTILE.items():
            change = sql.SQL("ALTER DATABASE {} SET {} = {}")
            connection.execute(change.format(name, sql.Identifier(parameter.lower()), value))
    return migrated_database


@pytest.fixture
def encoded_database(postgres, request):
    """A database in another encoding than UTF-8."""
    name = f"encoded_{request.param.lower()}_{os.getpid()}"
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        create = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {} LOCALE 'C'")
        connection.execute(create.format(sql.Identifier(name), request.param))
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture
async def open_connection(settings):
    """Open a connection to a database as the pools do."""
    orphaned, opened = OrphanedStatements(), []

    async def open_(url):
        connection = await connector(settings.with_database(url).database, orphaned)()
        opened.append(connection)
        return connection

    yield open_
    for connection in opened:
        await connection.close()
    await orphaned.close()


async def parameters_of(connection):
    return {name: await shown(connection, name) for name in WANTED}


async def shown(connection, name):
    return style(await (await connection.execute(f"SHOW {name}")).fetchone())


def style(row):
    """Return a value without the order of days and months, which no statement depends on."""
    return row[0].partition(",")[0]


class TestPinned:
    """Parameters that a database, a URL or the environment sets otherwise."""

    async def test_parameters_of_database_are_replaced(self, open_connection, hostile_database):
        assert await parameters_of(await open_connection(hostile_database)) == WANTED

    async def test_parameters_of_url_are_replaced(self, open_connection, database_url):
        options = "options=-c%20datestyle%3DGerman&client_encoding=LATIN1"
        connection = await open_connection(f"{database_url}?{options}")

        assert await shown(connection, "DateStyle") == "ISO"
        assert await shown(connection, "client_encoding") == "UTF8"

    async def test_variables_of_libpq_are_replaced(
        self, open_connection, database_url, monkeypatch
    ):
        for name, value in VARIABLES.items():
            monkeypatch.setenv(name, value)

        connection = await open_connection(database_url)
        assert await parameters_of(connection) == WANTED
        assert not connection.autocommit
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS

    def test_parameters_of_migrations_are_replaced(self, hostile_database, monkeypatch):
        for name, value in VARIABLES.items():
            monkeypatch.setenv(name, value)

        with connect(hostile_database) as connection:
            found = {name: style(connection.execute(f"SHOW {name}").fetchone()) for name in WANTED}
        assert found == WANTED

    async def test_calls_on_hostile_database_keep_their_values(
        self, settings, hostile_database, monkeypatch
    ):
        for name, value in VARIABLES.items():
            monkeypatch.setenv(name, value)

        mine = settings.with_database(hostile_database)
        async with run_service(mine) as service, channel_to(service) as channel:
            users = UserServiceStub(channel)
            created = (await users.CreateUser(ada(first_name="日本"))).user
            found = (await users.GetUser(pb.GetUserRequest(user_id=created.user_id))).user
        assert found == created
        assert found.first_name == "日本"


@pytest.mark.parametrize("encoded_database", OTHER_ENCODINGS, indirect=True)
class TestEncoding:
    """Databases whose encoding is not UTF-8."""

    def test_migration_is_refused_in_one_sentence(self, encoded_database, tmp_path):
        ended = tamatar(
            "migrate", "up", cwd=tmp_path, code=1, TAMATAR_DATABASE_URL=encoded_database
        )

        (line,) = ended.stderr.splitlines()
        assert line.startswith("The database has the encoding ")
        assert line.endswith(": create one with ENCODING 'UTF8'.")

    def test_doctor_reports_encoding(self, encoded_database, tmp_path):
        ended = tamatar("doctor", cwd=tmp_path, code=1, TAMATAR_DATABASE_URL=encoded_database)

        (line,) = (line for line in ended.stdout.splitlines() if line.startswith("FAIL"))
        assert "The database has the encoding" in line

    async def test_server_reports_encoding_and_is_unavailable(self, settings, encoded_database):
        mine = settings.with_database(encoded_database)
        with structlog.testing.capture_logs() as logs:
            async with run_service(mine) as service, channel_to(service) as channel:
                await eventually(lambda: said(logs, "create one with ENCODING 'UTF8'"))
                users = UserServiceStub(channel)
                assert await refusal(users.CreateUser(ada())) == UNAVAILABLE


class TestVersion:
    """Servers that are too old. The tests raise the minimum, because no old server is here."""

    async def test_old_server_is_refused(self, open_connection, database_url, monkeypatch):
        monkeypatch.setattr(server_parameters, "MIN_SERVER_VERSION", 99)

        with pytest.raises(UnsupportedServerError, match="too old: 99 or newer is needed"):
            await open_connection(database_url)

    def test_migration_of_old_server_is_refused(self, database_url, monkeypatch):
        monkeypatch.setattr(server_parameters, "MIN_SERVER_VERSION", 99)

        with pytest.raises(MigrationError, match=r"^PostgreSQL \d+ is too old: 99 or newer"):
            connect(database_url)

    async def test_server_on_old_server_is_not_serving(
        self, settings, migrated_database, monkeypatch
    ):
        monkeypatch.setattr(server_parameters, "MIN_SERVER_VERSION", 99)
        mine = settings.with_database(migrated_database)
        with structlog.testing.capture_logs() as logs:
            async with run_service(mine) as service, channel_to(service) as channel:
                await eventually(lambda: said(logs, "too old: 99 or newer is needed"))
                users = UserServiceStub(channel)
                assert await refusal(users.CreateUser(ada())) == UNAVAILABLE
